import type { Spec } from '../../engine/backend.ts';
import { byteLength } from '../../engine/dtype.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { type Launch, FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { type GpuArg, type HostArg, type KernelExports, type WasmArg } from '../../engine/positional.ts';
import { show, strides as stridesOf } from '../common/shapes.ts';

/**
 * A copy between two strided views of the same shape: what permute, slice, cat and their kin are made of. Strides and
 * offsets count elements; 0 repeats, negative runs backwards.
 */
export interface StridedCopy {
  readonly shape: readonly number[];
  readonly from: readonly number[];
  readonly fromOffset: number;
  readonly to: readonly number[];
  readonly toOffset: number;
}

/** A copy into a contiguous tensor of that shape. */
export function gatherCopy(shape: readonly number[], from: readonly number[], fromOffset = 0): StridedCopy {
  return { shape, from, fromOffset, to: stridesOf(shape), toOffset: 0 };
}

/** A copy out of a contiguous tensor of that shape. */
export function scatterCopy(shape: readonly number[], to: readonly number[], toOffset = 0): StridedCopy {
  return { shape, from: stridesOf(shape), fromOffset: 0, to, toOffset };
}

interface Sized extends Spec {
  readonly size: number;
}

/**
 * Held against the tensors where their elements are touched, whatever an op worked out before.
 * @throws ArgumentError unless both have one dtype and hold all that the copy names
 */
function expectInside({ shape, from, fromOffset, to, toOffset }: StridedCopy, source: Sized, target: Sized): void {
  const within = (steps: readonly number[], offset: number, size: number) => {
    let [low, high] = [offset, offset];
    for (let i = 0; i < shape.length; i++) {
      const reach = (shape[i] - 1) * steps[i];
      if (reach < 0) low += reach;
      else high += reach;
    }
    return low >= 0 && high < size;
  };
  const fits = shape.includes(0) || (within(from, fromOffset, source.size) && within(to, toOffset, target.size));
  if (fits && source.dtype === target.dtype) return;
  const named = [source, target].map(({ dtype, shape: s }) => `${dtype}${show(s)}`);
  throw new ArgumentError(`a copy of ${show(shape)} from ${named[0]} to ${named[1]} does not lie within them`);
}

/** Merges neighbouring dimensions that both views walk as one, and drops those of size 1. */
function merge({ shape, from, to }: StridedCopy): { size: number; from: number; to: number }[] {
  const dims: { size: number; from: number; to: number }[] = [];
  for (let i = 0; i < shape.length; i++) {
    if (shape[i] === 1) continue;
    const last = dims.at(-1);
    if (last && last.from === from[i] * shape[i] && last.to === to[i] * shape[i]) {
      dims[dims.length - 1] = { size: last.size * shape[i], from: from[i], to: to[i] };
    } else {
      dims.push({ size: shape[i], from: from[i], to: to[i] });
    }
  }
  return dims.length > 0 ? dims : [{ size: 1, from: 1, to: 1 }];
}

/** The copy in JavaScript; rows that both sides hold in one piece are copied whole. */
export function copyOnHost(copy: StridedCopy, source: HostArg, target: HostArg): void {
  expectInside(copy, source, target);
  const dims = merge(copy);
  const inner = dims.pop()!;
  const whole = inner.from === 1 && inner.to === 1;
  const walk = (depth: number, at: number, into: number): void => {
    if (depth < dims.length) {
      const d = dims[depth];
      for (let i = 0; i < d.size; i++) walk(depth + 1, at + i * d.from, into + i * d.to);
    } else if (whole && inner.size > 16) {
      target.data.set(source.data.subarray(at, at + inner.size), into);
    } else {
      for (let i = 0; i < inner.size; i++) target.data[into + i * inner.to] = source.data[at + i * inner.from];
    }
  };
  if (inner.size > 0 && dims.every((d) => d.size > 0)) walk(0, copy.fromOffset, copy.toOffset);
}

/** The copy by a C kernel; false for 16-bit elements, and for views that do not come down to four dimensions. */
export function copyOnWasm(k: KernelExports, copy: StridedCopy, source: WasmArg, target: WasmArg): boolean {
  expectInside(copy, source, target);
  const dims = merge(copy);
  if (dims.length > 4 || byteLength(source.dtype, 1) !== 4) return false;
  while (dims.length < 4) dims.unshift({ size: 1, from: 0, to: 0 });
  const [a, b, c, d] = dims;
  k.strided_copy(
    source.ptr + copy.fromOffset * 4,
    target.ptr + copy.toOffset * 4,
    ...([a.size, b.size, c.size, d.size] as const),
    ...([a.from, b.from, c.from, d.from] as const),
    ...([a.to, b.to, c.to, d.to] as const),
  );
  return true;
}

const WG = 256;

/** What one thread moves: four words of 32 bits, one, or an element of 16 bits. */
const UNITS = {
  quad: { bytes: 16, reads: 'vec4<u32>', writes: 'vec4<u32>', move: 'ys[goal] = xs[source];' },
  word: { bytes: 4, reads: 'u32', writes: 'u32', move: 'ys[goal] = xs[source];' },
  half: {
    bytes: 2,
    reads: 'u32',
    writes: 'atomic<u32>',
    // Each half of a word has a thread of its own, which leaves the other half alone; so any order gives the same bits.
    move: `let shift = u32(goal & 1) * 16u;
  let bits = (xs[source >> 1u] >> (u32(source & 1) * 16u)) & 0xffffu;
  atomicAnd(&ys[goal >> 1u], ~(0xffffu << shift));
  atomicOr(&ys[goal >> 1u], bits << shift);`,
  },
} as const;

type Unit = keyof typeof UNITS;

function kernel(rank: number, unit: Unit) {
  return shader(`strided_copy.${rank}.${unit}`, () => {
    const { reads, writes, move } = UNITS[unit];
    const dims = Array.from({ length: rank }, (_, i) => i);
    const fields = dims.flatMap((i) => [[`size${i}`, 'u32'] as const, [`from${i}`, 'i32'] as const, [`to${i}`, 'i32'] as const]);
    const steps = dims.reverse().map(
      (i) => `  {
    let k = i32(rest ${i === 0 ? '' : `% params.size${i}`});
    rest = rest / params.size${i};
    source += k * params.from${i};
    goal += k * params.to${i};
  }`,
    );
    return {
      reads: { xs: reads },
      writes: { ys: writes },
      params: { n: 'u32', source: 'i32', goal: 'i32', ...Object.fromEntries(fields) },
      constants: { WG },
      code: /* wgsl */ `${FLAT_INDEX}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  var rest = flat_index(group, groups, local, WG);
  if (rest >= params.n) { return; }
  var source = params.source;
  var goal = params.goal;
${steps.join('\n')}
  ${move}
}`,
    };
  });
}

/** Whether the copy moves whole groups of so many elements that lie together and begin at multiples of the number. */
function inGroupsOf(count: number, dims: readonly { size: number; from: number; to: number }[], copy: StridedCopy): boolean {
  if (count === 1) return true;
  const inner = dims[dims.length - 1];
  const whole = [inner.size, copy.fromOffset, copy.toOffset].every((n) => n % count === 0);
  if (inner.from !== 1 || inner.to !== 1 || !whole) return false;
  for (let i = 0; i < dims.length - 1; i++) if (dims[i].from % count !== 0 || dims[i].to % count !== 0) return false;
  return true;
}

/** The copy as one launch. Bits are moved, whatever the dtype, in the largest unit that sizes and strides allow. */
export function launchCopy(copy: StridedCopy, source: GpuArg, target: GpuArg): Launch {
  expectInside(copy, source, target);
  const dims = merge(copy);
  const bytes = byteLength(source.dtype, 1);
  const elementsIn = (unit: Unit) => UNITS[unit].bytes / bytes;
  const narrow = bytes === 2 ? 'half' : 'word';
  const unit = (['quad', 'word'] as const).find((u) => inGroupsOf(elementsIn(u), dims, copy)) ?? narrow;
  const group = elementsIn(unit);
  const params = [0, copy.fromOffset / group, copy.toOffset / group];
  let n = 1;
  dims.forEach(({ size, from, to }, i) => {
    const inner = i === dims.length - 1;
    const count = inner ? size / group : size;
    params.push(count, inner ? from : from / group, inner ? to : to / group);
    n *= count;
  });
  params[0] = n;
  return { shader: kernel(dims.length, unit), args: [source, target], params, grid: grid1d(n, WG) };
}
