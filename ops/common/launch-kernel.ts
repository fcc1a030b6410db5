import { accessor } from '../../engine/access.ts';
import { type GpuCaps, grid1d, type Launch, type Scalar, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { linked } from './library.ts';

const WORKGROUP = 256;

type Operands = Readonly<Record<string, Slot | undefined>>;

/** A kernel that reads and writes by `load_NAME(i)` and `store_NAME(i, v)`; no NAME is i or v. */
export interface Kernel {
  /** With the operands' names and formats it tells kernels apart: everything else that changes the code is in it. */
  readonly key: string;
  /** Those that are undefined are left out: what is loaded from them is 0, and what is stored to them is dropped. */
  readonly reads: Operands;
  /** In formats of 32 bits. They can be read too. */
  readonly writes: Operands;
  /** Names of those that are accessed four elements at a time. */
  readonly wide?: readonly string[];
  /** A number alone is a u32. */
  readonly params?: Readonly<Record<string, number | readonly [type: Scalar, value: number]>>;
  readonly constants?: Readonly<Record<string, number>>;
  /** As in `ShaderSpec`. */
  readonly workgroup?: number;
  /** WGSL, as in `ShaderSpec`; it may call the functions of the library. */
  code(): string;
  /** Workgroups. */
  readonly groups: number;
}

/** What kernels are chosen by. */
interface Device {
  readonly caps: Pick<GpuCaps, 'f16'>;
}

/** One dispatch of a kernel on operands in whatever formats they are stored. */
export function launchKernel({ caps }: Device, kernel: Kernel): Launch {
  const { key, reads, writes, wide = [], constants, workgroup, code } = kernel;
  const grid = grid1d(kernel.groups, 1);
  const surplus = grid[0] * grid[1] > Math.max(1, kernel.groups);
  const params = { ...kernel.params, ...(surplus && { workgroups: kernel.groups }) };
  const bindings = (operands: Operands) =>
    Object.entries(operands).flatMap(([name, slot]) =>
      slot ? [[name, accessor(accessOf(slot.dtype, caps), wide.includes(name) ? 'four' : 'one')] as const] : [],
    );
  const [read, written] = [bindings(reads), bindings(writes)];
  const all = Object.entries({ ...reads, ...writes });
  const scalars = Object.entries(params).map(([name, param]) => {
    const [type, value] = typeof param === 'number' ? (['u32', param] as const) : param;
    return { name, type, value };
  });
  return {
    shader: shader(`${key}${surplus ? ' counted' : ''} ${[...read, ...written].map(([name, access]) => `${name}=${access.key}`)}`, () => ({
      reads: Object.fromEntries(read),
      writes: Object.fromEntries(written),
      params: Object.fromEntries(scalars.map(({ name, type }) => [name, type])),
      constants,
      workgroup,
      code: linked([...all.map(([name, slot]) => (slot ? '' : nothing(name, wide.includes(name)))), code()].join('')),
    })),
    args: all.flatMap(([, slot]) => slot ?? []),
    params: scalars.map(({ value }) => value),
    grid,
  };
}

/** What stands in for an operand that is left out. */
function nothing(name: string, wide: boolean): string {
  const type = wide ? 'vec4<f32>' : 'f32';
  return `fn load_${name}(i: u32) -> ${type} { return ${type}(); }\nfn store_${name}(i: u32, v: ${type}) {}\n`;
}

/** A kernel whose entry point is written for it. */
export type KernelBody = Omit<Kernel, 'code' | 'groups' | 'workgroup'> & {
  /** WGSL: functions that the body calls. */
  declarations?(): string;
  /** WGSL of what an invocation does. */
  body(): string;
};

/** A kernel of one invocation for each of some elements. Its body sees the element's index `i`. */
export function launchElements(device: Device, size: number, kernel: KernelBody): Launch {
  return launchKernel(device, {
    ...kernel,
    params: { size, ...kernel.params },
    workgroup: WORKGROUP,
    code: () => /* wgsl */ `${kernel.declarations?.() ?? ''}
fn kernel(group: u32, local: u32) {
  let i = group * WG + local;
  if (i >= params.size) { return; }
  ${kernel.body()}
}`,
    groups: Math.ceil(size / WORKGROUP),
  });
}

/** Terms that are added up before they go to the whole: long sums lose no digits so. */
const BLOCK = 512;

/** WGSL that adds to `sum`, of that type, what `term` adds to `part` for each j below `params.count`, in order. */
export const sumInBlocks = (term: string, type = 'f32'): string => /* wgsl */ `
  for (var first = 0u; first < params.count; first += ${BLOCK}u) {
    var part = ${type}();
    for (var j = first; j < min(first + ${BLOCK}u, params.count); j += 1u) { ${term} }
    sum += part;
  }`;
