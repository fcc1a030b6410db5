import type { Spec } from '../../engine/backend.ts';
import { at, type WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { byteLength, expectElements } from '../../engine/dtype.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { type Bare, defineOp, type HostArg, type Named, type Op, type OpDefinition, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { mergeDims, show, strides as stridesOf } from '../common/shapes.ts';

/** Invocations in a workgroup. */
const WG = 256;

/** Where elements lie in a tensor's memory, counted in elements: strides of 0 repeat, negative ones run backwards. */
export interface View {
  readonly strides: readonly number[];
  readonly offset: number;
}

/** A copy between two views of the same shape: what permute, slice, cat and their kin are made of. */
export interface Copy<T> {
  readonly source: T;
  readonly target: T;
  readonly shape: readonly number[];
  /** How the source and the target are seen; they are contiguous where it is left out. */
  readonly from?: View;
  readonly to?: View;
  /** Moves `to` on, by data: `step` elements times the i32 in `start`, which is clamped to 0 … `most`. */
  readonly moved?: { readonly start: T; readonly step: number; readonly most: number };
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

/** A copy of x seen through other strides: permute, expand, flip and slice are all one kernel. */
export function viewOp<A>(
  name: string,
  view: (shape: readonly number[], attrs: A) => View & { readonly shape: readonly number[] },
  backward: OpDefinition<A, 'x', 'y', never>['backward'],
): Op<A, 'x', 'y'> {
  return defineCopyOp<A, 'x', 'y'>({
    name,
    inputs: ['x'],
    outputs: ['y'],
    shape({ x }, attrs) {
      expectElements(name, 'x', x.dtype);
      return { y: spec(view(x.shape, attrs).shape, x.dtype) };
    },
    copies: ({ x }, { y }, attrs) => [{ source: x, target: y, shape: y.shape, from: view(x.shape, attrs) }],
    backward,
  });
}

/** A copy as nested loops, in units of one element or of some that lie together. */
interface Loops {
  readonly dims: readonly { readonly size: number; readonly from: number; readonly to: number }[];
  readonly from: number;
  readonly to: number;
  readonly step: number;
}

/**
 * Neighbouring dimensions that both views walk as one are merged, those of size 1 dropped.
 * @throws ArgumentError unless both tensors have one dtype and hold all that the copy names, whatever its op checked
 */
function loopsOf({ shape, source, target, from, to, moved }: Copy<Spec & { readonly size: number }>): Loops {
  const [a, b] = [from, to].map((view) => view ?? { strides: stridesOf(shape), offset: 0 });
  const { sizes, strides: [froms, tos] } = mergeDims(shape, [a.strides, b.strides]);
  const dims = sizes.map((size, i) => ({ size, from: froms[i], to: tos[i] }));
  if (dims.length === 0) dims.push({ size: 1, from: 1, to: 1 });
  const loops = { dims, from: a.offset, to: b.offset, step: moved?.step ?? 0 };
  const within = (side: 'from' | 'to', room: number) => {
    const reach = dims.map((d) => (d.size - 1) * d[side]);
    const low = reach.reduce((sum, r) => sum + Math.min(r, 0), loops[side]);
    const high = reach.reduce((sum, r) => sum + Math.max(r, 0), loops[side]);
    return low >= 0 && high < room;
  };
  const room = target.size - loops.step * (moved?.most ?? 0);
  if (source.dtype === target.dtype && within('from', source.size) && within('to', room)) return loops;
  const named = [source, target].map(({ dtype, shape: s }) => `${dtype}${show(s)}`);
  throw new ArgumentError(`a copy of ${show(shape)} from ${named[0]} to ${named[1]} does not lie within them`);
}

/** The loops in units of `count` elements, where they move nothing but such at multiples of the number. */
function inUnitsOf(count: number, { dims, from, to, step }: Loops): Loops | null {
  if (count === 1) return { dims, from, to, step };
  const inner = dims[dims.length - 1];
  const outer = dims.slice(0, -1).map((d) => ({ size: d.size, from: d.from / count, to: d.to / count }));
  const loops = { dims: [...outer, { ...inner, size: inner.size / count }], from: from / count, to: to / count, step: step / count };
  const numbers = [loops.from, loops.to, loops.step, inner.size / count, ...outer.flatMap((d) => [d.from, d.to])];
  return inner.from === 1 && inner.to === 1 && numbers.every(Number.isInteger) ? loops : null;
}

/** The loops of a copy in the first of these units that it can be made in; one of them is as large as an element. */
function inLargestOf<const B extends number>(units: readonly B[], copy: Copy<Slot>): Loops & { readonly bytes: B } {
  const loops = loopsOf(copy);
  const element = byteLength(copy.source.dtype, 1);
  const tried = units.map((bytes) => ({ bytes, own: bytes < element ? null : inUnitsOf(bytes / element, loops) }));
  const { bytes, own } = tried.find((unit) => unit.own)!;
  return { bytes, ...own! };
}

/** The copy in JavaScript; rows that both sides hold in one piece are copied whole. */
function copyOnHost(copy: Copy<HostArg>): void {
  const { source, target, moved } = copy;
  const { dims, from, to, step } = loopsOf(copy);
  const inner = dims[dims.length - 1];
  const whole = inner.from === 1 && inner.to === 1 && inner.size > 16;
  const walk = (depth: number, at: number, into: number): void => {
    const { size, from: next, to: nextInto } = dims[depth];
    if (whole && depth === dims.length - 1) target.data.set(source.data.subarray(at, at + size), into);
    else if (depth < dims.length - 1) for (let i = 0; i < size; i++) walk(depth + 1, at + i * next, into + i * nextInto);
    else for (let i = 0; i < size; i++) target.data[into + i * nextInto] = source.data[at + i * next];
  };
  walk(0, from, to + (moved ? step * Math.min(Math.max(moved.start.data[0], 0), moved.most) : 0));
}

/** Calls of the C kernel that one copy may take. */
const MOST_CALLS = 4096;

/** The copy by a C kernel of four dimensions, called for each index of those before; false where these are too many. */
function copyOnWasm(k: WasmPlanner['k'], copy: Copy<Slot>): boolean {
  const { source, target, moved } = copy;
  const { bytes, dims, from, to, step } = inLargestOf([4, 2], copy);
  const [a, b, c, d] = [...new Array<(typeof dims)[number]>(4).fill({ size: 1, from: 0, to: 0 }), ...dims].slice(-4);
  const outer = dims.slice(0, -4).reverse();
  const calls = outer.reduce((product, { size }) => product * size, 1);
  if (calls > MOST_CALLS) return false;
  for (let i = 0; i < calls; i++) {
    let [begin, goal, rest] = [from, to, i];
    for (const dim of outer) {
      begin += (rest % dim.size) * dim.from;
      goal += (rest % dim.size) * dim.to;
      rest = Math.floor(rest / dim.size);
    }
    k.strided_copy(
      at(source, begin * bytes),
      at(target, goal * bytes),
      bytes,
      ...([a.size, b.size, c.size, d.size] as const),
      ...([a.from, b.from, c.from, d.from] as const),
      ...([a.to, b.to, c.to, d.to] as const),
      moved?.start,
      step,
      moved?.most ?? 0,
    );
  }
  return true;
}

/** WGSL that moves a unit of so many bytes, four words, one, or half of one, from x to y. */
const MOVES = {
  16: { type: 'vec4<u32>', move: 'y[goal] = x[source];' },
  4: { type: 'u32', move: 'y[goal] = x[source];' },
  2: {
    type: 'u32',
    target: 'atomic<u32>',
    // Each half of a word has a thread of its own, which leaves the other half alone; so any order gives the same bits.
    move: `atomicAnd(&y[goal >> 1u], ~(0xffffu << (u32(goal & 1) * 16u)));
  atomicOr(&y[goal >> 1u], ((x[source >> 1u] >> (u32(source & 1) * 16u)) & 0xffffu) << (u32(goal & 1) * 16u));`,
  },
} as const satisfies Record<number, { type: string; target?: string; move: string }>;

function kernel(rank: number, bytes: keyof typeof MOVES, moved: boolean) {
  return shader(`strided_copy.${rank}.${bytes}${moved ? '.moved' : ''}`, () => {
    const { type, move, target = type }: { type: string; move: string; target?: string } = MOVES[bytes];
    const dims = Array.from({ length: rank }, (_, i) => rank - 1 - i);
    const fields = dims.flatMap((i) => [[`size${i}`, 'u32'] as const, [`from${i}`, 'i32'] as const, [`to${i}`, 'i32'] as const]);
    const steps = dims.map((i) => `  {
    let k = i32(rest ${i === 0 ? '' : `% params.size${i}`});
    rest = rest / params.size${i};
    source += k * params.from${i};
    goal += k * params.to${i};
  }`);
    return {
      reads: { x: type, ...(moved && { start: 'i32' }) },
      writes: { y: target },
      params: { n: 'u32', source: 'i32', goal: 'i32', step: 'i32', most: 'i32', ...Object.fromEntries(fields) },
      workgroup: WG,
      code: /* wgsl */ `
fn kernel(group: u32, local: u32) {
  var rest = group * WG + local;
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
  const { source, target, moved } = copy;
  const { bytes, dims, from, to, step } = inLargestOf([16, 4, 2], copy);
  const n = dims.reduce((product, { size }) => product * size, 1);
  const params = [n, from, to, step, moved?.most ?? 0, ...[...dims].reverse().flatMap((d) => [d.size, d.from, d.to])];
  const args = moved ? [source, moved.start, target] : [source, target];
  return { shader: kernel(dims.length, bytes, !!moved), args, params, grid: grid1d(n, WG) };
}
