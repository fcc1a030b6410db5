import type { GpuPlanner, Launch } from '../engine/backends/webgpu/launch.ts';
import type { DType } from '../engine/dtype.ts';
import { defineOp, spec } from '../engine/op.ts';
import { type GpuProduct, gpuProduct } from '../ops/gemm/kernel.ts';
import { type Product, productOnHost } from '../ops/gemm/product.ts';

/** A product, and the dtype of its result. */
export interface ProductAttrs extends Product {
  readonly dtype: DType;
}

/** An op that makes products by certain launches, whichever would be chosen for them. */
export function productBy(launches: (g: GpuProduct, device: GpuPlanner) => readonly Launch[]) {
  return defineOp({
    name: 'product',
    inputs: ['a', 'b', 'bias?', 'addend?'],
    outputs: ['c'],
    asStored: { webgpu: ['c'] },
    shape: (_, { batch, M, N, dtype }: ProductAttrs) => ({ c: spec([...batch, M, N], dtype) }),
    reference: ({ a, b, bias, addend }, { c }, g) => productOnHost(g, a, b, bias, c, addend),
    webgpu: (inputs, outputs, g, device) => launches(gpuProduct(g, { ...inputs, ...outputs }, device.caps), device),
  });
}
