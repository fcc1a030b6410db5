import { grid1d, type Launch, shader, type Shader } from '../../engine/backends/webgpu/launch.ts';
import { type GpuArg, type GpuCall } from '../../engine/positional.ts';
import { launchFill } from '../elementwise/fill-kernel.ts';
import { type Layout, layoutFor, LINE_WG, LINES } from './lines.ts';
import body from './reduce.wgsl';
import { nanWgsl } from '../elementwise/math.ts';
import { around } from '../common/shapes.ts';
import { squaresWgsl } from '../common/squares.ts';

/** A fold of many values into one, in WGSL. `start` sees the first value, whether or not it will be folded. */
interface Fold {
  readonly acc: string;
  readonly start: string;
  readonly fold: string;
  readonly join: string;
  readonly finish: string;
  /** Functions that these call. */
  readonly helpers?: string;
}

const SUM: Fold = { acc: 'f32', start: '0.0', fold: 'a + v', join: 'a + b', finish: 'a' };
/** Largest value so far and the sum of exponentials relative to it; equal values are handled apart for infinities. */
const LSE_JOIN = /* wgsl */ `
fn lse_join(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
  let m = max(a.x, b.x);
  return vec2(m, a.y * select(exp(a.x - m), 1.0, a.x == m) + b.y * select(exp(b.x - m), 1.0, b.x == m));
}
`;

const LOGSUMEXP: Fold = {
  acc: 'vec2<f32>',
  start: 'vec2(v, 0.0)',
  fold: 'join(a, vec2(v, 1.0))',
  join: 'lse_join(a, b)',
  finish: 'a.x + log(a.y)',
  helpers: LSE_JOIN,
};

const FOLDS = {
  sum: SUM,
  mean: { ...SUM, finish: 'a * params.scale' },
  max: { acc: 'f32', start: 'v', fold: 'max_(a, v)', join: 'max_(a, b)', finish: 'a' },
  min: { acc: 'f32', start: 'v', fold: 'min_(a, v)', join: 'min_(a, b)', finish: 'a' },
  logsumexp: LOGSUMEXP,
  norm: { acc: 'vec3<f32>', start: 'vec3<f32>()', fold: 'a + squares(v)', join: 'a + b', finish: 'norm_of(a)', helpers: squaresWgsl },
} satisfies Record<string, Fold>;

type Stage = keyof typeof FOLDS;
export type FoldName = 'sum' | 'mean' | 'max' | 'min' | 'logsumexp' | 'norm';

/** What the first, middle and last of several stages run; a fold's result folds on by the same fold but for these. */
const STAGES: Partial<Record<FoldName, readonly [first: Stage, middle: Stage, last: Stage]>> = {
  mean: ['sum', 'sum', 'mean'],
};

/** Workgroups that keep a large GPU busy. */
const ENOUGH = 1024;

interface Pass {
  readonly outer: number;
  readonly len: number;
  readonly inner: number;
  readonly splits: number;
  readonly layout: Layout;
}

function planPass(outer: number, len: number, inner: number): Pass {
  const chosen = layoutFor(len, inner);
  const tiles = Math.ceil((outer * inner * chosen.lanes) / LINE_WG);
  const wanted = Math.min(Math.ceil(len / (chosen.lanes * 16)), Math.ceil(ENOUGH / Math.max(1, tiles)));
  const splits = Math.max(1, Math.ceil(len / Math.max(1, Math.ceil(len / wanted))));
  return { outer, len, inner, splits, layout: chosen };
}

/** One pass per run of reduced dims, the last run first, and one more where a pass splits its run. */
function plan(shape: readonly number[], dims: readonly number[]): Pass[] {
  const passes: Pass[] = [];
  const sizes = [...shape];
  const add = (first: number, last: number) => {
    const len = sizes.slice(first, last + 1).reduce((a, b) => a * b, 1);
    sizes.splice(first, last + 1 - first, len);
    const { outer, inner } = around(sizes, first);
    let pass = planPass(outer, len, inner);
    passes.push(pass);
    while (pass.splits > 1) passes.push((pass = planPass(outer, pass.splits, inner)));
    sizes[first] = 1;
  };
  for (let d = shape.length - 1; d >= 0; d--) {
    if (!dims.includes(d) || sizes[d] === 1) continue;
    const last = d;
    while (d > 0 && (dims.includes(d - 1) || sizes[d - 1] === 1)) d--;
    add(d, last);
  }
  if (passes.length === 0) passes.push(planPass(1, 1, sizes.reduce((a, b) => a * b, 1)));
  return passes;
}

/**
 * Launches that fold x over `dims` into y, deterministically: a fixed tree in each workgroup, and further stages
 * through scratch buffers where there are few outputs or the dims are not neighbours.
 */
export function reduceLaunches(
  name: FoldName,
  x: GpuArg,
  y: GpuArg,
  dims: readonly number[],
  scratch: GpuCall<unknown>['scratch'],
): Launch[] {
  // Of nothing, sums are 0 and the mean is 0/0; the other folds refuse it.
  if (x.size === 0) return y.size === 0 ? [] : [launchFill(y, name === 'mean' ? NaN : 0)];
  const passes = plan(x.shape, dims);
  const stages = STAGES[name] ?? [name as Stage, name as Stage, name as Stage];
  let from = x;
  return passes.map((pass, k) => {
    const last = k === passes.length - 1;
    const stage = passes.length === 1 ? name : stages[last ? 2 : k === 0 ? 0 : 1];
    const to = last ? y : scratch([pass.outer, pass.splits, pass.inner]);
    const launch = passLaunch(stage, pass, from, to, y.size / x.size);
    from = to;
    return launch;
  });
}

function passLaunch(stage: Stage, pass: Pass, x: GpuArg, y: GpuArg, scale: number): Launch {
  const { len, inner, splits, layout } = pass;
  const outputs = pass.outer * inner;
  return {
    shader: kernelFor(stage, layout),
    args: [x, y],
    params: [outputs, len, inner, Math.ceil(len / splits), scale],
    grid: grid1d(outputs * layout.lanes, LINE_WG, splits),
  };
}

const kernels = new Map<Layout, Partial<Record<Stage, Shader>>>();

function kernelFor(stage: Stage, layout: Layout): Shader {
  let own = kernels.get(layout);
  if (!own) kernels.set(layout, (own = {}));
  return (own[stage] ??= shader(`reduce.${stage}.${layout.key}`, () => {
    const { acc, start, fold, join, finish, helpers = '' }: Fold = FOLDS[stage];
    return {
      reads: { x: 'f32' },
      writes: { y: 'f32' },
      params: { outputs: 'u32', len: 'u32', inner: 'u32', chunk: 'u32', scale: 'f32' },
      constants: layout.constants,
      code: /* wgsl */ `alias Acc = ${acc};${nanWgsl}${helpers}
fn start(v: f32) -> Acc { return ${start}; }
fn join(a: Acc, b: Acc) -> Acc { return ${join}; }
fn fold(a: Acc, v: f32) -> Acc { return ${fold}; }
fn finish(a: Acc) -> f32 { return ${finish}; }
${LINES}${body}`,
    };
  }));
}
