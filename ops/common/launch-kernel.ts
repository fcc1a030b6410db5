import { accessor } from '../../engine/access.ts';
import { type GpuCaps, grid1d, type Launch, type Scalar, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { linked } from './library.ts';

const WORKGROUP = 256;

type Operands = Readonly<Record<string, Slot | undefined>>;

/** A kernel that reads and writes by `load_NAME(i)` and `store_NAME(i, v)`; no NAME is i or v. */
export interface Kernel {
  /** With the names and formats of the operands it tells kernels apart: everything else that changes the code is in it. */
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
  readonly grid: Launch['grid'];
}

/** What kernels are chosen by. */
interface Device {
  readonly caps: Pick<GpuCaps, 'f16'>;
}

/** One dispatch of a kernel on operands in whatever formats they are stored. */
export function launchKernel(kernel: Kernel, { caps }: Device): Launch {
  const { key, reads, writes, wide = [], params = {}, constants, workgroup, code, grid } = kernel;
  const present = (operands: Operands) => Object.entries(operands).filter((entry): entry is [string, Slot] => !!entry[1]);
  const [read, written] = [present(reads), present(writes)];
  const scalars = Object.entries(params).map(([name, p]) => [name, ...(typeof p === 'number' ? (['u32', p] as const) : p)] as const);
  const accessorOf = (name: string, { dtype }: Slot) =>
    accessor(accessOf(dtype, caps), wide.includes(name) ? 'four' : 'one');
  const bindings = (operands: readonly [string, Slot][]) =>
    Object.fromEntries(operands.map(([name, slot]) => [name, accessorOf(name, slot)]));
  const formats = [...read, ...written].map(([name, slot]) => `${name}=${accessorOf(name, slot).key}`);
  const absent = Object.entries({ ...reads, ...writes }).flatMap(([name, slot]) => (slot ? [] : [name]));
  return {
    shader: shader(`${key} ${formats}`, () => ({
      reads: bindings(read),
      writes: bindings(written),
      params: Object.fromEntries(scalars),
      constants,
      workgroup,
      code: linked(absent.map((name) => nothing(name, wide.includes(name) ? 'vec4<f32>' : 'f32')).join('') + code()),
    })),
    args: [...read, ...written].map(([, slot]) => slot),
    params: scalars.map(([, , value]) => value),
    grid,
  };
}

function nothing(name: string, type: string): string {
  return `fn load_${name}(i: u32) -> ${type} { return ${type}(); }\nfn store_${name}(i: u32, v: ${type}) {}\n`;
}

/** A kernel whose entry point is written for it. */
export type KernelBody = Omit<Kernel, 'code' | 'grid' | 'workgroup'> & {
  /** WGSL: functions that the body calls. */
  declarations?(): string;
  /** WGSL of what an invocation does. */
  body(): string;
};

/** A kernel of one invocation for each of some elements. Its body sees the element's index `i`. */
export function launchElements(size: number, kernel: KernelBody, device: Device): Launch {
  return launchKernel(
    {
      ...kernel,
      params: { size, ...kernel.params },
      workgroup: WORKGROUP,
      code: () => /* wgsl */ `${kernel.declarations?.() ?? ''}
fn kernel(group: u32, local: u32) {
  let i = group * WG + local;
  if (i >= params.size) { return; }
  ${kernel.body()}
}`,
      grid: grid1d(size, WORKGROUP),
    },
    device,
  );
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
