import { at, type WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import type { Spec } from '../../engine/backend.ts';
import { byteLength, expectDType } from '../../engine/dtype.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { type Bare, defineOp, type HostArg, type Named, type Op, type OpDefinition } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { FLAT_MAIN, flatLaunch } from '../common/flat.ts';
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

/** A copy from one operand of an op to another. */
export interface Copy<T> extends StridedCopy {
  readonly source: T;
  readonly target: T;
  /** Moves `toOffset` on, by data: `step` elements times the i32 in `start`, which is clamped to 0 … `most`. */
  readonly moved?: { readonly start: T; readonly step: number; readonly most: number };
}

/** A view of a contiguous tensor. */
export interface View {
  readonly strides: readonly number[];
  readonly offset: number;
}

/** A copy of a view into a contiguous tensor. */
export function gatherCopy<T extends Spec>(source: T, target: T, { strides, offset }: View): Copy<T> {
  const { shape } = target;
  return { source, target, shape, from: strides, fromOffset: offset, to: stridesOf(shape), toOffset: 0 };
}

/** A copy of a contiguous tensor into a view. */
export function scatterCopy<T extends Spec>(source: T, target: T, { strides, offset }: View): Copy<T> {
  const { shape } = source;
  return { source, target, shape, from: stridesOf(shape), fromOffset: 0, to: strides, toOffset: offset };
}

/** An op that moves elements as they are stored, by copies that specs and attributes determine. */
interface CopyOp<A, I extends string, O extends string>
  extends Pick<OpDefinition<A, I, O, never>, 'name' | 'inputs' | 'outputs' | 'shape' | 'backward' | 'mutates'> {
  copies<T extends Spec>(inputs: Named<I, T>, outputs: Named<O, T>, attrs: A): readonly Copy<T>[];
}

export function defineCopyOp<A, const I extends string, const O extends string>(definition: CopyOp<A, I, O>): Op<A, I, O> {
  const names = [...definition.inputs, ...definition.outputs].map((name) => name.replace(/[?*]$/, '') as Bare<I> | Bare<O>);
  const copies = <T extends Spec>(inputs: Named<I, T>, outputs: Named<O, T>, attrs: A) =>
    definition.copies(inputs, outputs, attrs).filter(({ shape }) => !shape.includes(0));
  return defineOp<A, I, O>({
    ...definition,
    reference: (inputs, outputs, attrs) => copies(inputs, outputs, attrs).forEach(copyOnHost),
    webgpu: (inputs, outputs, attrs) => copies(inputs, outputs, attrs).map(launchCopy),
    wasm: (inputs, outputs, attrs, { k }) => copies(inputs, outputs, attrs).every((copy) => copyOnWasm(k, copy)),
    asStored: { webgpu: names, wasm: names },
  });
}

/** @throws DTypeError for formats that share a scale among elements, which cannot be moved one by one */
export function expectMovable(op: string, x: Spec): void {
  expectDType(op, 'x', x.dtype, 'f32', 'f16', 'bf16', 'i32', 'u32', 'bool');
}

interface Sized extends Spec {
  readonly size: number;
}

/**
 * Held against the tensors where their elements are touched, whatever an op worked out before.
 * @throws ArgumentError unless both have one dtype and hold all that the copy names
 */
function expectInside({ shape, from, fromOffset, to, toOffset, source, target, moved }: Copy<Sized>): void {
  const within = (steps: readonly number[], offset: number, size: number) => {
    let [low, high] = [offset, offset];
    for (let i = 0; i < shape.length; i++) {
      const reach = (shape[i] - 1) * steps[i];
      if (reach < 0) low += reach;
      else high += reach;
    }
    return low >= 0 && high < size;
  };
  const room = target.size - (moved ? moved.step * moved.most : 0);
  if (source.dtype === target.dtype && within(from, fromOffset, source.size) && within(to, toOffset, room)) return;
  const named = [source, target].map(({ dtype, shape: s }) => `${dtype}${show(s)}`);
  throw new ArgumentError(`a copy of ${show(shape)} from ${named[0]} to ${named[1]} does not lie within them`);
}

interface Dim {
  readonly size: number;
  readonly from: number;
  readonly to: number;
}

/** Merges neighbouring dimensions that both views walk as one, and drops those of size 1. */
function merge({ shape, from, to }: StridedCopy): Dim[] {
  const dims: Dim[] = [];
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
function copyOnHost(copy: Copy<HostArg>): void {
  expectInside(copy);
  const { source, target, moved } = copy;
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
  const start = moved ? Math.min(Math.max(moved.start.data[0], 0), moved.most) * moved.step : 0;
  walk(0, copy.fromOffset, copy.toOffset + start);
}

/** A copy in units of several elements. */
interface Units {
  readonly dims: readonly Dim[];
  readonly fromOffset: number;
  readonly toOffset: number;
  /** Units that one step of `moved` is. */
  readonly step: number;
}

/** The copy in units of `count` elements that lie together, if it moves nothing but such at multiples of the number. */
function inUnitsOf(count: number, { fromOffset, toOffset, moved }: StridedCopy & Copy<unknown>, dims: readonly Dim[]): Units | null {
  const outer = dims.slice(0, -1);
  const inner = dims[dims.length - 1];
  const step = moved?.step ?? 0;
  const numbers = [inner.size, fromOffset, toOffset, step, ...outer.flatMap(({ from, to }) => [from, to])];
  const together = count === 1 || (inner.from === 1 && inner.to === 1);
  if (!together || numbers.some((n) => n % count !== 0)) return null;
  return {
    dims: [...outer.map(({ size, from, to }) => ({ size, from: from / count, to: to / count })), { ...inner, size: inner.size / count }],
    fromOffset: fromOffset / count,
    toOffset: toOffset / count,
    step: step / count,
  };
}

/** The copy by a C kernel; false for views that do not come down to four dimensions. */
function copyOnWasm(k: WasmPlanner['k'], copy: Copy<Slot>): boolean {
  expectInside(copy);
  const { source, target, moved } = copy;
  const merged = merge(copy);
  if (merged.length > 4) return false;
  while (merged.length < 4) merged.unshift({ size: 1, from: 0, to: 0 });
  const element = byteLength(source.dtype, 1);
  const words = inUnitsOf(4 / element, copy, merged);
  const bytes = words ? 4 : element;
  const { dims: [a, b, c, d], fromOffset, toOffset, step } = words ?? inUnitsOf(1, copy, merged)!;
  k.strided_copy(
    at(source, fromOffset * bytes),
    at(target, toOffset * bytes),
    bytes,
    ...([a.size, b.size, c.size, d.size] as const),
    ...([a.from, b.from, c.from, d.from] as const),
    ...([a.to, b.to, c.to, d.to] as const),
    moved?.start,
    step,
    moved?.most ?? 0,
  );
  return true;
}

/** What one thread moves: four words of 32 bits, one, or an element of 16 bits. The first that fits is taken. */
const UNITS = [
  { name: 'quad', bytes: 16, reads: 'vec4<u32>', writes: 'vec4<u32>', move: 'ys[goal] = xs[source];' },
  { name: 'word', bytes: 4, reads: 'u32', writes: 'u32', move: 'ys[goal] = xs[source];' },
  {
    name: 'half',
    bytes: 2,
    reads: 'u32',
    writes: 'atomic<u32>',
    // Each half of a word has a thread of its own, which leaves the other half alone; so any order gives the same bits.
    move: `let shift = u32(goal & 1) * 16u;
  let bits = (xs[source >> 1u] >> (u32(source & 1) * 16u)) & 0xffffu;
  atomicAnd(&ys[goal >> 1u], ~(0xffffu << shift));
  atomicOr(&ys[goal >> 1u], bits << shift);`,
  },
] as const;

function kernel(rank: number, { name, reads, writes, move }: (typeof UNITS)[number], moved: boolean) {
  return shader(`strided_copy.${rank}.${name}${moved ? '.moved' : ''}`, () => {
    const dims = Array.from({ length: rank }, (_, i) => rank - 1 - i);
    const fields = dims.flatMap((i) => [[`size${i}`, 'u32'] as const, [`from${i}`, 'i32'] as const, [`to${i}`, 'i32'] as const]);
    const steps = dims.map((i) => `  {
    let k = i32(rest ${i === 0 ? '' : `% params.size${i}`});
    rest = rest / params.size${i};
    source += k * params.from${i};
    goal += k * params.to${i};
  }`);
    return {
      reads: { xs: reads, ...(moved && { start: 'i32' }) },
      writes: { ys: writes },
      params: { n: 'u32', source: 'i32', goal: 'i32', step: 'i32', most: 'i32', ...Object.fromEntries(fields) },
      code: /* wgsl */ `
${FLAT_MAIN} {
  var rest = flat_index(group, groups, local, WG);
  if (rest >= params.n) { return; }
  var source = params.source;
  var goal = params.goal${moved ? ' + params.step * clamp(start[0], 0, params.most)' : ''};
${steps.join('\n')}
  ${move}
}`,
    };
  });
}

/** The copy as one launch. Bits are moved, whatever the dtype, in the largest unit that sizes and strides allow. */
function launchCopy(copy: Copy<Slot>): Launch {
  expectInside(copy);
  const { source, target, moved } = copy;
  const merged = merge(copy);
  const element = byteLength(source.dtype, 1);
  const fits = (unit: (typeof UNITS)[number]) => inUnitsOf(unit.bytes / element, copy, merged);
  const unit = UNITS.find((u) => u.bytes >= element && fits(u))!;
  const { dims, fromOffset, toOffset, step } = fits(unit)!;
  const n = dims.reduce((product, { size }) => product * size, 1);
  const params = [n, fromOffset, toOffset, step, moved?.most ?? 0];
  for (const { size, from, to } of [...dims].reverse()) params.push(size, from, to);
  return flatLaunch(kernel(dims.length, unit, !!moved), moved ? [source, moved.start, target] : [source, target], params, n);
}
