import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import type { DType } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { type Kernel, launchKernel } from '../common/launch-kernel.ts';
import { around } from '../common/shapes.ts';
import { launchFill } from '../elementwise/fill.ts';
import foldCode from './fold.wgsl';
import squares from './squares.wgsl';

/** How many values become one, in WGSL: by an associative `join` of what each of them is alone. */
export interface Fold {
  /** The type of what stands for the values folded so far: f32, i32, u32 or a vector of these. */
  readonly acc: string;
  /** What stands for one value `v`, number `k` of its line. */
  readonly lift: string;
  /** What stands for all that `a` and `b` stand for. */
  readonly join: string;
  /** The same for four values at once, a, b, c and d, where that is cheaper. */
  readonly four?: string;
  /** Functions that these call. */
  readonly helpers?: string;
}

/** Σ x² of any f32, neither overflowing nor vanishing; `norm_of` gives its root. */
export const SQUARES: Fold = { acc: 'vec3<f32>', lift: 'squares(v)', join: 'a + b', helpers: squares };

/** With the type of the values, and how one is loaded from place `i` of what is read. */
export interface FoldOf extends Fold {
  readonly type: string;
  readonly load: string;
}

/** Σ of what `load` gives. */
export const sumOver = (type: string, load: string): FoldOf => ({ type, load, acc: type, lift: 'v', join: 'a + b' });

/** A tensor seen as (outer, len, inner), which is folded along `len`, in so many parts. */
interface Pass {
  readonly outer: number;
  readonly len: number;
  readonly inner: number;
  readonly splits?: number;
}

interface FoldKernel extends Pick<Kernel, 'key' | 'reads' | 'writes' | 'wide' | 'params'> {
  readonly fold: FoldOf;
  /** WGSL of what each thread does, standing at its Place `at`, with the `total` that its line, or part of it, folds to. */
  readonly body: string;
}

/** Threads of a workgroup. */
const WORKGROUP = 256;

/** How they share the lines: a line is the `length` elements of one outer and one inner index. */
interface Variant {
  readonly name: string;
  when(sizes: { readonly lines: number; readonly length: number; readonly inner: number }): boolean;
  /** Threads that work on one line; the workgroup has as many lines as that leaves room for. */
  readonly lanes: number;
  /** Whether neighbouring threads are on the same line, or else on neighbouring lines. */
  readonly along: boolean;
}

/** The first that fits is taken: neighbouring threads read neighbouring elements. */
const VARIANTS: readonly Variant[] = [
  { name: 'tiny', when: ({ length, inner }) => length <= (inner === 1 ? 4 : 16), lanes: 1, along: false },
  { name: 'short', when: ({ length, inner }) => inner === 1 && length <= 64, lanes: 8, along: true },
  { name: 'medium', when: ({ lines, length, inner }) => inner === 1 && length <= 1024 && lines >= 64, lanes: 32, along: true },
  { name: 'long', when: ({ inner }) => inner === 1, lanes: WORKGROUP, along: true },
  { name: 'narrow', when: ({ inner }) => inner < 16, lanes: 64, along: false },
  { name: 'wide', when: () => true, lanes: 8, along: false },
];

const variantFor = ({ outer, len, inner }: Pass): Variant =>
  VARIANTS.find(({ when }) => when({ lines: outer * inner, length: len, inner }))!;

const FOUR = 'join(join(lift(a, k), lift(b, k + LANES)), join(lift(c, k + 2u * LANES), lift(d, k + 3u * LANES)))';

/** WGSL of a fold: Value, Acc, value, lift, join and four. */
export const declared = ({ acc, lift, join, four = FOUR, helpers = '', type, load }: FoldOf): string => /* wgsl */ `${helpers}
alias Acc = ${acc};
alias Value = ${type};
fn value(i: u32) -> Value { return ${load}; }
fn lift(v: Value, k: u32) -> Acc { return ${lift}; }
fn join(a: Acc, b: Acc) -> Acc { return ${join}; }
fn four(a: Value, b: Value, c: Value, d: Value, k: u32) -> Acc { return ${four}; }
`;

/** A launch that folds each line, or part of it, and then does something with the total. */
export function launchFold(device: GpuPlanner, pass: Pass, { key, fold, body, ...kernel }: FoldKernel): Launch {
  const { outer, len, inner, splits = 1 } = pass;
  const lines = outer * inner;
  const { name, lanes, along } = variantFor(pass);
  return launchKernel(device, {
    ...kernel,
    key: `${key}.${name}`,
    workgroup: WORKGROUP,
    params: { lines, len, inner, splits, chunk: Math.ceil(len / splits), ...kernel.params },
    // Lanes of a line are NEXT apart in the workgroup.
    constants: { LANES: lanes, TILE: WORKGROUP / lanes, NEXT: along ? 1 : WORKGROUP / lanes, ALONG: along ? 1 : 0 },
    code: () => /* wgsl */ `${declared(fold)}${foldCode}
fn kernel(group: u32, local: u32) {
  let at = place_of(group, local);
  let total = fold_line(at, local);
  ${body}
}`,
    groups: Math.ceil((lines * lanes) / WORKGROUP) * splits,
  });
}

/** Workgroups that keep a large GPU busy. */
const ENOUGH = 1024;

/** The pass in as many parts as keep a GPU busy, and the passes that fold these. */
function inParts(pass: Pass): Pass[] {
  const { outer, len, inner } = pass;
  const { lanes } = variantFor(pass);
  const tiles = Math.ceil((outer * inner * lanes) / WORKGROUP);
  const wanted = Math.min(Math.ceil(len / (lanes * 16)), Math.ceil(ENOUGH / Math.max(1, tiles)));
  const splits = Math.max(1, Math.ceil(len / Math.max(1, Math.ceil(len / wanted))));
  return [{ ...pass, splits }, ...(splits > 1 ? inParts({ outer, len: splits, inner }) : [])];
}

/** One pass per run of reduced dims, the last run first, and more where a pass splits its run. */
function passesOver(shape: readonly number[], dims: readonly number[]): Pass[] {
  const passes: Pass[] = [];
  const sizes = [...shape];
  for (let d = shape.length - 1; d >= 0; d--) {
    if (!dims.includes(d) || sizes[d] === 1) continue;
    const end = d + 1;
    while (d > 0 && (dims.includes(d - 1) || sizes[d - 1] === 1)) d--;
    const len = sizes.slice(d, end).reduce((a, b) => a * b, 1);
    sizes.splice(d, end - d, len);
    passes.push(...inParts({ ...around(sizes, d), len }));
    sizes[d] = 1;
  }
  return passes.length > 0 ? passes : [{ outer: 1, len: 1, inner: sizes.reduce((a, b) => a * b, 1) }];
}

/** What is folded: where from, and what becomes of it. */
interface Folded extends Pick<Kernel, 'reads' | 'writes' | 'params'> {
  /** Unique: part of the shaders' keys. */
  readonly name: string;
  readonly fold: FoldOf;
  /** WGSL that stores the result for `a` at place `o` of what is written. */
  readonly store: string;
  /** What nothing folds to. */
  readonly empty?: number;
}

/**
 * Launches that fold the first of what is read over `dims`, deterministically: a fixed tree in each workgroup, and
 * further launches, through scratch, where there are few outputs or the dims are not neighbours.
 */
export function foldLaunches(device: GpuPlanner, dims: readonly number[], folded: Folded): Launch[] {
  const { name, store, reads, writes, params, fold, empty = 0 } = folded;
  const [{ shape, size }] = Object.values(reads) as [Slot];
  if (size === 0) return Object.values(writes).flatMap((y) => (y ? [launchFill(y, empty)] : []));
  const [, width = '1', type] = /^(?:vec(\d)<)?(\w+)/.exec(fold.acc)!;
  const words = Array.from({ length: Number(width) }, (_, w) => w);
  const whole = `${fold.acc}(${words.map((w) => `load_x(${width}u * i + ${w}u)`)})`;
  const part = words.map((w) => `store_y(${width}u * o + ${w}u, total${width === '1' ? '' : `[${w}]`});`).join(' ');
  const passes = passesOver(shape, dims);
  let from: Pick<FoldKernel, 'reads' | 'fold'> = { reads, fold };
  return passes.map((pass, i) => {
    const last = i === passes.length - 1;
    const to = last ? writes : { y: device.scratch([pass.outer, pass.splits!, pass.inner, words.length], type as DType) };
    const kernel = { key: `${name}.${i === 0 ? 'first' : ''}.${last ? 'last' : ''}`, ...from, writes: to, params };
    from = { reads: { x: Object.values(to)[0] }, fold: { ...fold, lift: 'v', four: undefined, type: fold.acc, load: whole } };
    return launchFold(device, pass, { ...kernel, body: storing(last ? `let a = total; ${store}` : part) });
  });
}

/** WGSL that stores the `total` of a line, or of part of it, number `o`, by the first of its lanes. */
const storing = (store: string) => /* wgsl */ `
  if (at.lane == 0u && at.begin < at.end) {
    let o = (at.line / params.inner * params.splits + at.part) * params.inner + at.line % params.inner;
    ${store}
  }`;

/** y = Σ over the rows of x (rows, …y), some hundreds of them: the second stage of sums over many. */
export function sumRows(device: GpuPlanner, x: Slot, y: Slot): Launch {
  const kernel = { key: 'sum_rows', reads: { x }, writes: { y }, fold: sumOver('f32', 'load_x(i)') };
  const pass = { outer: 1, len: x.shape[0], inner: y.size };
  return launchFold(device, pass, { ...kernel, body: storing('store_y(o, total);') });
}
