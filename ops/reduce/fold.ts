import { FLAT_INDEX, type GpuPlanner, grid1d, type Launch } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, type DType } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import { around } from '../common/shapes.ts';
import { squaresWgsl } from '../common/squares.ts';
import { launchFill } from '../elementwise/fill.ts';
import foldCode from './fold.wgsl';
import { layoutOf, variantFor, WORKGROUP } from './variants.ts';

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

/** A tensor seen as (outer, len, inner), which is folded along `len`, in so many parts. */
interface Pass {
  readonly outer: number;
  readonly len: number;
  readonly inner: number;
  readonly splits: number;
}

interface FoldKernel {
  /** Part of the shader's key; unique for the WGSL. */
  readonly key: string;
  readonly reads: Readonly<Record<string, Slot>>;
  readonly writes: Readonly<Record<string, Slot>>;
  readonly params?: Readonly<Record<string, readonly ['f32', number]>>;
  readonly fold: Fold;
  readonly value: Value;
  /** WGSL: functions that the body calls. */
  readonly declarations: string;
  /** WGSL of what each thread does, standing at its Place `at`, with the `total` that its line, or part of it, folds to. */
  readonly body: string;
}

const FOUR = 'join(join(lift(a, k), lift(b, k + LANES)), join(lift(c, k + 2u * LANES), lift(d, k + 3u * LANES)))';

/** A launch that folds each line, or part of it, and then does something with the total. */
export function launchFold(kernel: FoldKernel, { outer, len, inner, splits }: Pass, device: GpuPlanner): Launch {
  const { key, reads, writes, params, fold, value, declarations, body } = kernel;
  const lines = outer * inner;
  const variant = variantFor({ lines, length: len, inner });
  const { acc, lift, join, four = FOUR, helpers = '' } = fold;
  const chunk = Math.ceil(len / splits);
  return launchKernel(
    {
      key: `${key}.${variant.name}`,
      reads,
      writes,
      params: { lines: ['u32', lines], len: ['u32', len], inner: ['u32', inner], chunk: ['u32', chunk], ...params },
      constants: layoutOf(variant),
      code: () => /* wgsl */ `${FLAT_INDEX}${helpers}
alias Acc = ${acc};
alias Value = ${value.type};
fn value(i: u32) -> Value { return ${value.load}; }
fn lift(v: Value, k: u32) -> Acc { return ${lift}; }
fn join(a: Acc, b: Acc) -> Acc { return ${join}; }
fn four(a: Value, b: Value, c: Value, d: Value, k: u32) -> Acc { return ${four}; }
${foldCode}${declarations}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let at = place_of(group, groups, local);
  let total = fold_line(at, local);
  ${body}
}`,
      grid: grid1d(lines * variant.lanes, WORKGROUP, splits),
    },
    device,
  );
}

/** Workgroups that keep a large GPU busy. */
const ENOUGH = 1024;

function passOf(outer: number, len: number, inner: number): Pass {
  const variant = variantFor({ lines: outer * inner, length: len, inner });
  const tiles = Math.ceil((outer * inner * variant.lanes) / WORKGROUP);
  const wanted = Math.min(Math.ceil(len / (variant.lanes * 16)), Math.ceil(ENOUGH / Math.max(1, tiles)));
  const splits = Math.max(1, Math.ceil(len / Math.max(1, Math.ceil(len / wanted))));
  return { outer, len, inner, splits };
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

export const SUM: Fold = { acc: 'f32', lift: 'v', join: 'a + b' };

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
export function foldLaunches(folded: Folded, y: Slot, dims: readonly number[], device: GpuPlanner): Launch[] {
  const [{ shape, size }] = Object.values(folded.inputs);
  if (size === 0) return [launchFill(y, folded.empty ?? 0)];
  const { fold } = folded;
  const passes = passesOver(shape, dims);
  const [, width = '1', type] = /^(?:vec(\d)<)?(\w+)/.exec(fold.acc)!;
  const words = Array.from({ length: Number(width) }, (_, w) => w);
  const whole = `${fold.acc}(${words.map((w) => `load_x(${width}u * i + ${w}u)`)})`;
  const part = words.map((w) => `store_y(${width}u * o + ${w}u, total${width === '1' ? '' : `[${w}]`});`).join(' ');
  const count = folded.count ?? size / y.size;
  let from = folded;
  return passes.map((pass, i) => {
    const last = i === passes.length - 1;
    const to = last ? y : device.scratch([pass.outer, pass.splits, pass.inner, words.length], type as DType);
    const launch = launchPass({ ...from, name: `${folded.name}.${i === 0 ? 'first' : ''}`, count }, to, pass, device, last ? undefined : part);
    from = { ...folded, inputs: { x: to }, fold: { ...fold, lift: 'v', four: undefined }, value: { type: fold.acc, load: whole } };
    return launch;
  });
}

/** One pass: `store` is WGSL that writes the `total` of a line, or part of it, number `o`; its result where it is left out. */
function launchPass({ name, inputs, fold, value, result, count = 1 }: Folded, y: Slot, pass: Pass, device: GpuPlanner, store?: string) {
  const kernel = {
    key: `${name}.${store ? '' : 'last'}`,
    reads: inputs,
    writes: { y },
    params: { count: ['f32', count] },
    fold,
    value,
    declarations: store ? '' : `fn result(a: Acc) -> ${accessOf(y.dtype, device.caps).type} { return ${result}; }`,
    body: /* wgsl */ `
  if (at.lane == 0u && at.begin < at.end) {
    let o = (at.line / params.inner * groups.z + group.z) * params.inner + at.line % params.inner;
    ${store ?? 'store_y(o, result(total));'}
  }`,
  } as const;
  return launchFold(kernel, pass, device);
}

/** y = Σ over the rows of x (rows, …y), some hundreds of them: the second stage of sums over many. */
export function sumRows(x: Slot, y: Slot, device: GpuPlanner): Launch {
  const value = { type: 'f32', load: 'load_x(i)' };
  const sum = { name: 'sum_rows', fold: SUM, result: 'a', inputs: { x }, value };
  return launchPass(sum, y, { outer: 1, len: x.shape[0], inner: y.size, splits: 1 }, device);
}
