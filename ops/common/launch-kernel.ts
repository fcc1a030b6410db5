import { accessor } from '../../engine/access.ts';
import { grid1d, type GpuPlanner, type Launch, type Scalar, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { FLAT_MAIN } from './flat.ts';

type Operands = Readonly<Record<string, Slot | undefined>>;

/** A kernel that reads and writes an element at a time, by `load_NAME(i)` and `store_NAME(i, v)`; no NAME is i or v. */
export interface Kernel {
  /** With the names and formats of the operands it tells kernels apart: everything else that changes the code is in it. */
  readonly key: string;
  /** Those that are undefined are left out. */
  readonly reads: Operands;
  /** In formats of 32 bits. They can be read too. */
  readonly writes: Operands;
  readonly params?: Readonly<Record<string, readonly [type: Scalar, value: number]>>;
  readonly constants?: Readonly<Record<string, number>>;
  /** WGSL with an entry point `main`. */
  code(): string;
  readonly grid: Launch['grid'];
}

/** One dispatch of a kernel on operands in whatever formats they are stored. */
export function launchKernel(kernel: Kernel, { caps }: GpuPlanner): Launch {
  const { key, reads, writes, params = {}, constants, code, grid } = kernel;
  const present = (operands: Operands) => Object.entries(operands).filter((entry): entry is [string, Slot] => !!entry[1]);
  const [read, written] = [present(reads), present(writes)];
  const bindings = (operands: readonly [string, Slot][]) =>
    Object.fromEntries(operands.map(([name, { dtype }]) => [name, accessor(accessOf(dtype, caps), false)]));
  const formats = [...read, ...written].map(([name, { dtype }]) => `${name}=${accessOf(dtype, caps).key}`);
  return {
    shader: shader(`${key} ${formats}`, () => ({
      reads: bindings(read),
      writes: bindings(written),
      params: Object.fromEntries(Object.entries(params).map(([name, [type]]) => [name, type])),
      constants,
      code: code(),
    })),
    args: [...read, ...written].map(([, slot]) => slot),
    params: Object.values(params).map(([, value]) => value),
    grid,
  };
}

/** A kernel whose entry point is written for it. */
export type KernelBody = Omit<Kernel, 'code' | 'grid'> & {
  /** WGSL: functions that the body calls. */
  declarations?(): string;
  /** WGSL of what an invocation does. */
  body(): string;
};

/** A kernel of one invocation for each of some elements. Its body sees the element's index `i`. */
export function launchElements(size: number, kernel: KernelBody, device: GpuPlanner): Launch {
  return launchKernel(
    {
      ...kernel,
      params: { size: ['u32', size], ...kernel.params },
      code: () => /* wgsl */ `${kernel.declarations?.() ?? ''}
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.size) { return; }
  ${kernel.body()}
}`,
      grid: grid1d(size, 256),
    },
    device,
  );
}
