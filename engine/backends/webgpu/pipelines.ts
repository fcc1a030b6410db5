import type { GpuBuffer } from './buffers.ts';
import type { PlannedLaunch, Shader } from './launch.ts';
import { SLOT } from './params.ts';

interface Compiled {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** What the device said of the shader: null until it did. */
  verdict: 'good' | Error | null;
}

const COMPUTE = 0x4;
/** By the letters of `Shader.bindings`, and p for params. */
const BINDINGS: Readonly<Record<string, GPUBufferBindingType>> = { r: 'read-only-storage', w: 'storage', p: 'uniform' };
/** Bind groups kept at most; past it all go. */
const MAX_GROUPS = 16384;

/** Compiles each shader once, and makes each bind group once. */
export class Pipelines {
  private readonly compiledShaders = new Map<Shader, Compiled>();
  private readonly layouts = new Map<string, GPUBindGroupLayout>();
  private readonly groups = new Map<string, GPUBindGroup>();

  constructor(private readonly device: GPUDevice) {}

  /** Whether the device has compiled it and found it good. @throws the error that it said of it instead */
  passed(shader: Shader): boolean {
    const verdict = this.compiledShaders.get(shader)?.verdict;
    if (verdict instanceof Error) throw verdict;
    return verdict === 'good';
  }

  compiled(shader: Shader): Compiled {
    let found = this.compiledShaders.get(shader);
    if (!found) this.compiledShaders.set(shader, (found = this.compile(shader)));
    return found;
  }

  /** The bind group of a launch's params and of the buffers that its `slots` name among a call's. */
  bindGroup(
    { layout }: Compiled,
    { shader, slots, params }: PlannedLaunch,
    buffers: readonly (GpuBuffer | undefined)[],
  ): GPUBindGroup {
    // Params are of one launch alone.
    let key = params ? `${params.id}` : shader.bindings;
    for (let i = 0; i < slots.length; i++) key += `,${buffers[slots[i]]!.key}`;
    const found = this.groups.get(key);
    if (found) return found;
    if (this.groups.size >= MAX_GROUPS) this.groups.clear();
    const ranges = slots.map((slot) => {
      const { gpu, offset, capacity } = buffers[slot]!;
      return { buffer: gpu, offset, size: capacity };
    });
    if (params) ranges.push({ buffer: params.buffer, offset: params.offset, size: SLOT });
    const entries = ranges.map((resource, binding) => ({ binding, resource }));
    const group = this.device.createBindGroup({ layout, entries });
    this.groups.set(key, group);
    return group;
  }

  private compile(shader: Shader): Compiled {
    const layout = this.layout(shader.bindings + (shader.paramTypes.length > 0 ? 'p' : ''));
    const label = shader.key;
    const pipeline = this.device.createComputePipeline({
      label,
      layout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: this.device.createShaderModule({ label, code: shader.source() }), entryPoint: 'main' },
    });
    return { pipeline, layout, verdict: null };
  }

  private layout(bindings: string): GPUBindGroupLayout {
    let found = this.layouts.get(bindings);
    if (!found) {
      const buffers = [...bindings].map((access) => ({ type: BINDINGS[access] }));
      const entries = buffers.map((buffer, binding) => ({ binding, visibility: COMPUTE, buffer }));
      this.layouts.set(bindings, (found = this.device.createBindGroupLayout({ entries })));
    }
    return found;
  }
}

/** Adds to a driver's message the numbered source of the first of the shaders that it names. */
export function explain(message: string, [shader]: readonly Shader[]): string {
  if (!shader) return message;
  const numbered = shader.source().split('\n').map((line, i) => `${String(i + 1).padStart(4)} ${line}`);
  return `${message}\n${numbered.join('\n')}`;
}
