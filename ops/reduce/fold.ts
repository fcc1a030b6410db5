import { accessor } from '../../engine/access.ts';
import { FLAT_INDEX, type GpuPlanner, grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { around } from '../common/shapes.ts';
import { squaresWgsl } from '../common/squares.ts';
import { launchFill } from '../elementwise/fill-kernel.ts';
import foldCode from './fold.wgsl';
import { layoutOf, type Variant, variantFor, WORKGROUP } from './variants.ts';

/** How many values become one, in WGSL: by an associative `join` of what each of them is alone. */
export interface Fold {
  /** The type of what stands for the values folded so far. */
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

/** WGSL of a value: its type, and how it is loaded from place `i` of the inputs. */
export interface Value {
  readonly type: string;
  readonly load: string;
}

/** The entry point of kernels that fold, to be followed by their body. */
export const FOLD_MAIN = /* wgsl */ `
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32)`;

export const FOLD_PARAMS = { lines: 'u32', len: 'u32', inner: 'u32', chunk: 'u32' } as const;

const FOUR = 'join(join(lift(a, k), lift(b, k + LANES)), join(lift(c, k + 2u * LANES), lift(d, k + 3u * LANES)))';

/** WGSL: `fold_line`, and what it needs. The shader has FOLD_PARAMS and the constants of a Variant's layout. */
export function foldWgsl({ acc, lift, join, four = FOUR, helpers = '' }: Fold, { type, load }: Value): string {
  return /* wgsl */ `${FLAT_INDEX}${helpers}
alias Acc = ${acc};
alias Value = ${type};
fn value(i: u32) -> Value { return ${load}; }
fn lift(v: Value, k: u32) -> Acc { return ${lift}; }
fn join(a: Acc, b: Acc) -> Acc { return ${join}; }
fn four(a: Value, b: Value, c: Value, d: Value, k: u32) -> Acc { return ${four}; }
${foldCode}`;
}

/** Workgroups that keep a large GPU busy. */
const ENOUGH = 1024;

/** One launch: it folds lines of `len`, each in `splits` parts. */
interface Pass {
  readonly outer: number;
  readonly len: number;
  readonly inner: number;
  readonly splits: number;
  readonly variant: Variant;
}

function passOf(outer: number, len: number, inner: number): Pass {
  const variant = variantFor({ lines: outer * inner, length: len, inner });
  const tiles = Math.ceil((outer * inner * variant.lanes) / WORKGROUP);
  const wanted = Math.min(Math.ceil(len / (variant.lanes * 16)), Math.ceil(ENOUGH / Math.max(1, tiles)));
  const splits = Math.max(1, Math.ceil(len / Math.max(1, Math.ceil(len / wanted))));
  return { outer, len, inner, splits, variant };
}

/** One pass per run of reduced dims, the last run first, and one more where a pass splits its run. */
function passesOver(shape: readonly number[], dims: readonly number[]): Pass[] {
  const passes: Pass[] = [];
  const sizes = [...shape];
  const add = (first: number, last: number) => {
    const len = sizes.slice(first, last + 1).reduce((a, b) => a * b, 1);
    sizes.splice(first, last + 1 - first, len);
    const { outer, inner } = around(sizes, first);
    let pass = passOf(outer, len, inner);
    passes.push(pass);
    while (pass.splits > 1) passes.push((pass = passOf(outer, pass.splits, inner)));
    sizes[first] = 1;
  };
  for (let d = shape.length - 1; d >= 0; d--) {
    if (!dims.includes(d) || sizes[d] === 1) continue;
    const last = d;
    while (d > 0 && (dims.includes(d - 1) || sizes[d - 1] === 1)) d--;
    add(d, last);
  }
  if (passes.length === 0) passes.push(passOf(1, 1, sizes.reduce((a, b) => a * b, 1)));
  return passes;
}

/** What is folded: where from, and what becomes of it. */
export interface Folded {
  /** Unique: part of the shaders' keys. */
  readonly name: string;
  readonly fold: Fold;
  /** WGSL: the result for `a`; `params.count` is how many values each result is of, or what the caller says. */
  readonly result: string;
  /** Inputs of one shape by name, accessed by `load_NAME(i)`. */
  readonly inputs: Readonly<Record<string, Slot>>;
  readonly value: Value;
  readonly count?: number;
  /** What nothing folds to. */
  readonly empty?: number;
}

/** The L2 norm. */
export const NORM = {
  fold: { acc: 'vec3<f32>', lift: 'squares(v)', join: 'a + b', helpers: squaresWgsl },
  result: 'norm_of(a)',
  empty: 0,
};

/**
 * Launches that fold the inputs over `dims` into y, deterministically: a fixed tree in each workgroup, and further
 * launches, through scratch, where there are few outputs or the dims are not neighbours.
 */
export function foldLaunches(
  { name, fold, result, inputs, value, count, empty = 0 }: Folded,
  y: Slot,
  dims: readonly number[],
  { caps, scratch }: GpuPlanner,
): Launch[] {
  const [{ shape, size }] = Object.values(inputs);
  if (size === 0) return [launchFill(y, empty)];
  const passes = passesOver(shape, dims);
  const words = /vec[34]/.test(fold.acc) ? 4 : fold.acc.startsWith('vec2') ? 2 : 1;
  const type = accessOf(y.dtype, caps).type;
  const own = Object.fromEntries(Object.entries(inputs).map(([n, { dtype }]) => [n, accessor(accessOf(dtype, caps), false)]));
  const stored = Object.values(own).map(({ key }) => key).join();
  let from: Slot | null = null;
  return passes.map(({ outer, len, inner, splits, variant }, i) => {
    const [first, last] = [i === 0, i === passes.length - 1];
    const to = last ? y : scratch([outer, splits, inner, words]);
    const key = `${name}.${first ? stored : 'parts'}.${last ? type : 'part'}.${variant.name}`;
    const kernel = shader(key, () => ({
      reads: first ? own : { x: fold.acc },
      writes: { y: last ? type : fold.acc },
      params: { ...FOLD_PARAMS, count: 'f32' },
      constants: layoutOf(variant),
      code: /* wgsl */ `
${foldWgsl(first ? fold : { ...fold, lift: 'v', four: undefined }, first ? value : { type: fold.acc, load: 'x[i]' })}
fn result(a: Acc) -> ${last ? type : 'Acc'} { return ${last ? result : 'a'}; }
${FOLD_MAIN} {
  let at = place_of(group, groups, local);
  let total = fold_line(at, local);
  if (at.lane == 0u && at.begin < at.end) {
    y[(at.line / params.inner * groups.z + group.z) * params.inner + at.line % params.inner] = result(total);
  }
}`,
    }));
    const args = [...(first ? Object.values(inputs) : [from!]), to];
    from = to;
    const params = [outer * inner, len, inner, Math.ceil(len / splits), count ?? size / y.size];
    return { shader: kernel, args, params, grid: grid1d(outer * inner * variant.lanes, WORKGROUP, splits) };
  });
}
