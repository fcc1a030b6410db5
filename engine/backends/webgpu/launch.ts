import type { Accessor } from '../../access.ts';
import type { DType } from '../../dtype.ts';
import type { Slot } from '../../plan.ts';
import type { ParamsPlace } from './params.ts';

/** What the adapter offers; kernels choose their variant by it. */
export interface GpuCaps {
  readonly f16: boolean;
  readonly maxInvocations: number;
  readonly maxWorkgroupMemory: number;
  readonly maxStorageBuffers: number;
  /** True for drivers that run on the CPU (lavapipe, SwiftShader). */
  readonly software: boolean;
}

/** What an op's `webgpu` gets beside its operands. */
export interface GpuPlanner {
  readonly caps: GpuCaps;
  /** A buffer for this call only, e.g. for the first stage of a reduction. */
  scratch(shape: readonly number[], dtype?: DType): Slot;
}

/** Types of params. */
export type Scalar = 'u32' | 'i32' | 'f32';

/** See `ShaderSpec.reads`. */
export type Binding = string | Accessor;

/** What a shader is made of. The prelude (enables, constants, bindings, params) is generated from it. */
export interface ShaderSpec {
  /**
   * Each storage binding in order, read-only ones first: what accesses it by `load_NAME(i)` and `store_NAME(i, v)`, or
   * the WGSL type of its elements, for code that goes to the array itself.
   */
  readonly reads?: Readonly<Record<string, Binding>>;
  readonly writes: Readonly<Record<string, Binding>>;
  /** Scalars in the uniform `params`, in order; at most 64. */
  readonly params?: Readonly<Record<string, Scalar>>;
  /** `const NAME: u32 = value;` lines (numbers with a fraction become f32). */
  readonly constants?: Readonly<Record<string, number>>;
  /** Invocations in a workgroup, which code knows as WG. Without it, code writes its entry point `main` itself. */
  readonly workgroup?: number;
  /**
   * WGSL with a function `kernel(group: u32, local: u32)`, which the generated entry point calls with the index of the
   * workgroup over a grid of `grid1d`, and of the invocation in it; of those from `params.workgroups` on, where there
   * is such a param, it calls none.
   */
  readonly code: string;
}

/** A shader ready to be launched; made once per key. */
export interface Shader {
  readonly key: string;
  /** One letter a storage binding: r for read, w for read_write. */
  readonly bindings: string;
  readonly paramTypes: readonly Scalar[];
  /** The whole WGSL source. */
  source(): string;
}

const shaders = new Map<string, Shader>();

/** The shader of that key, built on first use. Everything that changes the source must be in the key. */
export function shader(key: string, make: () => ShaderSpec): Shader {
  let found = shaders.get(key);
  if (!found) {
    const spec = make();
    const bindings = 'r'.repeat(Object.keys(spec.reads ?? {}).length) + 'w'.repeat(Object.keys(spec.writes).length);
    found = { key, bindings, paramTypes: Object.values(spec.params ?? {}), source: () => withPrelude(spec) };
    shaders.set(key, found);
  }
  return found;
}

/** Keys of all shaders made so far, for tests and reports. */
export function shaderKeys(): string[] {
  return [...shaders.keys()];
}

const entry = (counted: boolean): string => /* wgsl */ `
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let index = group.y * groups.x + group.x;
${counted ? '  if (index >= params.workgroups) { return; }\n' : ''}  kernel(index, local);
}
`;

function withPrelude({ reads = {}, writes, params = {}, constants, workgroup, code }: ShaderSpec): string {
  const read = Object.keys(reads).length;
  const bound = Object.entries({ ...reads, ...writes });
  const accessors = bound.flatMap(([, binding]) => (typeof binding === 'string' ? [] : binding));
  const values = Object.entries({ ...(workgroup !== undefined && { WG: workgroup }), ...constants });
  const fields = Object.entries(params).map(([name, type]) => `  ${name}: ${type},`);
  const lines = [
    ...new Set(accessors.flatMap(({ feature }) => (feature ? `enable ${feature};` : []))),
    ...values.map(([name, value]) =>
      Number.isInteger(value) ? `const ${name}: u32 = ${value}u;` : `const ${name}: f32 = ${value};`,
    ),
    ...bound.flatMap(([name, binding], i) => {
      const [type, access] = [typeof binding === 'string' ? binding : binding.stored, i < read ? 'read' : 'read_write'];
      const declared = `@group(0) @binding(${i}) var<storage, ${access}> ${name}: array<${type}>;`;
      return typeof binding === 'string' ? declared : [declared, binding.functions(name, i >= read)];
    }),
    ...new Set(accessors.flatMap(({ helpers }) => helpers ?? [])),
  ];
  if (fields.length > 0) {
    lines.push('struct Params {', ...fields, '}', `@group(0) @binding(${bound.length}) var<uniform> params: Params;`);
  }
  return `${lines.join('\n')}\n${code}${workgroup === undefined ? '' : entry('workgroups' in params)}`;
}

/** One dispatch, as pure data. */
export interface Launch {
  readonly shader: Shader;
  /** Operands in the order of the shader's bindings. */
  readonly args: readonly Slot[];
  /** Values in the order of the shader's params. */
  readonly params?: readonly number[];
  /** Workgroups in x, y, z. */
  readonly grid: readonly [number, number, number];
}

/** A launch with its params in place. */
export interface PlannedLaunch extends Pick<Launch, 'shader' | 'grid'> {
  /** Which of the call's buffers each binding is: inputs, outputs, then scratch. */
  readonly slots: readonly number[];
  readonly params: ParamsPlace | null;
}

/** Workgroups in one dimension at most: what every device takes. */
export const MAX_GRID = 65535;

/** Workgroups for `items` invocations along x, which spill into y past 65,535. */
export function grid1d(items: number, workgroup: number): [number, number, number] {
  const groups = Math.max(1, Math.ceil(items / workgroup));
  const y = Math.ceil(groups / MAX_GRID);
  return [Math.ceil(groups / y), y, 1];
}
