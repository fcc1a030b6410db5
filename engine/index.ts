/** The tensor engine: tensors, tape, scopes, backends. It knows no op and no model. */
export * from './apply.ts';
export * from './backend.ts';
export { type Capture, capture } from './capture.ts';
export { ReferenceBackend, type ReferenceOptions } from './backends/reference/reference.ts';
export * from './backends/webgpu/launch.ts';
export { WasmBackend, type WasmOptions } from './backends/wasm/wasm.ts';
export { WebGpuBackend, type WebGpuOptions } from './backends/webgpu/webgpu.ts';
export { type DType, type ElementDType, type HostArray, isFloat, expectDType } from './dtype.ts';
export * from './errors.ts';
export { leakReport } from './leaks.ts';
export * from './op.ts';
export { type OpProfile, Profiler } from './profiler.ts';
export * from './safetensors/index.ts';
export { keep, scope } from './scope.ts';
export { gradEnabled, noGrad } from './tape.ts';
export * from './tensor.ts';
