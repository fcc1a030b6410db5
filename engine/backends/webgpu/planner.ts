import { elements } from '../../backend.ts';
import { byteLength } from '../../dtype.ts';
import { KernelError } from '../../errors.ts';
import type { Call } from '../../plan.ts';
import { widen } from '../../widen.ts';
import { convert } from './convert.ts';
import { type GpuCaps, type GpuPlanner, type Launch, MAX_GRID, type Shader } from './launch.ts';

/**
 * The launches of a call, and the bytes of each scratch buffer, whose slots come after those of the operands.
 * @throws KernelError naming the op where it cannot be launched
 */
export function planLaunches(call: Call, caps: GpuCaps): { launches: readonly Launch[]; scratch: readonly number[] } {
  const { op, inputs, outputs, attrs } = call;
  const scratch: number[] = [];
  const device: GpuPlanner = {
    caps,
    scratch: (shape, dtype = 'f32') => {
      const size = elements(shape);
      const slot = inputs.length + outputs.length + scratch.push(byteLength(dtype, size)) - 1;
      return { shape, dtype, size, slot };
    },
  };
  const given = widen(call, 'webgpu', device.scratch);
  const launches = [
    ...given.before.map(([from, to]) => convert(from, to, caps)),
    ...op.webgpu(op.takes.named(given.inputs), op.gives.named(given.outputs), attrs, device),
    ...given.after.map(([from, to]) => convert(from, to, caps)),
  ];
  for (const launch of launches) expectLaunchable(op.name, launch);
  return { launches, scratch };
}

/** Refuses what the device would. @throws KernelError naming the op */
function expectLaunchable(name: string, { shader, args, grid }: Launch): void {
  if (grid[0] > MAX_GRID || grid[1] > MAX_GRID || grid[2] > MAX_GRID) {
    throw new KernelError(`${name}: needs ${grid.join(' × ')} workgroups, a GPU takes ${MAX_GRID}; cut its tensors up`);
  }
  if (args.length !== shader.bindings.length) {
    throw new KernelError(`${name}: was given ${args.length} tensors for the ${shader.bindings.length} of its kernel`);
  }
  expectApart(name, shader, args.map(({ slot }) => slot));
}

/** @throws KernelError where what a binding writes to is another binding too, which the device refuses */
export function expectApart(name: string, { bindings }: Shader, bound: readonly unknown[]): void {
  for (let i = bindings.indexOf('w'); i < bound.length; i++) {
    if (bound.indexOf(bound[i]) === i) continue;
    throw new KernelError(`${name}: would write to the memory of another of its tensors; give it a copy`);
  }
}
