import type { Spec } from '../../engine/backend.ts';
import { type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { ShapeError } from '../../engine/errors.ts';
import { type GpuArg } from '../../engine/positional.ts';
import { EXP_SUM } from '../common/exp-sum.ts';
import { show } from '../common/shapes.ts';
import { squaresWgsl } from '../common/squares.ts';

/** @throws ShapeError unless x is (…, V) with V ≥ 1: no distribution is over nothing */
export function expectClasses(op: string, name: string, { shape }: Spec): void {
  if (shape.length > 0 && shape[shape.length - 1] > 0) return;
  throw new ShapeError(`${op}: ${name} has shape ${show(shape)}, expected (…, V) with at least one class`);
}

/** How the losses of rows become one loss: f = factor, over Σ weights if `byWeight`; Σ w·loss·f, or its root. */
export interface Finish {
  readonly factor: number;
  readonly byWeight: boolean;
  readonly root: boolean;
}

/** The one loss, and what a row's loss times its weight counts in it (the derivative). */
export function finishOnHost(total: number, weight: number, { factor, byWeight, root }: Finish): [number, number] {
  const f = byWeight ? (weight === 0 ? 0 : factor / weight) : factor;
  if (!root) return [total * f, f];
  const loss = Math.sqrt(total * f);
  return [loss, loss === 0 ? 0 : f / (2 * loss)];
}

/** WGSL: a sum over rows and where their weights are in it, what a row adds, the loss of all and the factor. */
interface Sums {
  readonly type: string;
  readonly weight: string;
  readonly term: string;
  readonly total: string;
  readonly slope: string;
  readonly helpers?: string;
}

const PLAIN: Sums = { type: 'vec2<f32>', weight: 'y', term: 'vec2<f32>(w * loss, w)', total: 'sum.x * f', slope: 'f' };
const ROOT: Sums = {
  type: 'vec4<f32>',
  weight: 'w',
  term: 'vec4<f32>(squares(sqrt(w) * loss), w)',
  total: 'norm_of(sum.xyz) * sqrt(f)',
  slope: 'select(0.5 * f / loss, 0.0, loss == 0.0)',
  helpers: squaresWgsl,
};

const FINISH = (weighted: boolean, { type, weight, term, total, slope, helpers = '' }: Sums) => /* wgsl */ `${helpers}
var<workgroup> tree: array<${type}, 256>;
fn term(r: u32) -> ${type} {
  let at = min(r, params.rows - 1u);
  let loss = losses[at];
  let w = ${weighted ? 'weights[at]' : '1.0'};
  return select(${term}, ${type}(), r >= params.rows || w == 0.0);
}
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
  // 64 at a time, so that long sums lose no digits, and of these four, so that loads overlap.
  var own = ${type}();
  for (var first = local; first < params.rows; first += 16384u) {
    var part = ${type}();
    for (var r = first; r < min(first + 16384u, params.rows); r += 1024u) {
      part += (term(r) + term(r + 256u)) + (term(r + 512u) + term(r + 768u));
    }
    own += part;
  }
  tree[local] = own;
  workgroupBarrier();
  for (var step = 128u; step > 0u; step /= 2u) {
    if (local < step) { tree[local] += tree[local + step]; }
    workgroupBarrier();
  }
  if (local > 0u) { return; }
  let sum = tree[0];
  let weight = sum.${weight};
  var f = params.factor;
  if (params.by_weight == 1u) { f = select(f / weight, 0.0, weight == 0.0); }
  let loss = ${total};
  loss_out[0] = loss;
  factor_out[0] = ${slope};
}`;

/**
 * The last stage of a loss: (rows) losses, or their roots where the whole has one, and perhaps weights → loss [] and
 * factor [], in a fixed order.
 */
export function finishLaunch(losses: GpuArg, weights: GpuArg | null, loss: GpuArg, factor: GpuArg, f: Finish): Launch {
  const weighted = weights !== null;
  return {
    shader: shader(`row_losses.${weighted}.${f.root}`, () => ({
      reads: { losses: 'f32', ...(weighted ? { weights: 'f32' } : {}) },
      writes: { loss_out: 'f32', factor_out: 'f32' },
      params: { rows: 'u32', factor: 'f32', by_weight: 'u32' },
      code: FINISH(weighted, f.root ? ROOT : PLAIN),
    })),
    args: weighted ? [losses, weights, loss, factor] : [losses, loss, factor],
    params: [losses.size, f.factor, Number(f.byWeight)],
    grid: [1, 1, 1],
  };
}

/**
 * WGSL, to go with ROWS: `max_and_log_sum` joins the pairs (maximum, Σ exp(x − maximum)) of two series over a row's
 * lanes, each as EXP_SUM makes them, and gives (maximum, log Σ) of both.
 */
export const LOG_SUMS = /* wgsl */ `${EXP_SUM}
var<workgroup> pairs: array<vec4<f32>, WG>;
fn max_and_log_sum(first: vec2<f32>, second: vec2<f32>, k: f32, local: u32) -> vec4<f32> {
  pairs[local] = vec4<f32>(first, second);
  workgroupBarrier();
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    if (local % LANES < step) {
      let a = pairs[local];
      let b = pairs[local + step];
      pairs[local] = vec4<f32>(join_exp(a.xy, b.xy, k), join_exp(a.zw, b.zw, k));
    }
    workgroupBarrier();
  }
  let all = pairs[local - local % LANES];
  workgroupBarrier();
  return vec4<f32>(all.x, log(all.y), all.z, log(all.w));
}
`;

/**
 * The maximum of one row and log Σ exp((x − maximum)·scale): apart, because their sum would round the logarithm away
 * where the maximum is large.
 */
export function maxAndLogSum(data: ArrayLike<number>, at: number, n: number, scale = 1): [number, number] {
  let max = -Infinity;
  for (let c = 0; c < n; c++) max = Math.max(max, data[at + c]);
  let sum = 0;
  for (let c = 0; c < n; c++) sum += Math.exp((data[at + c] - max) * scale);
  return [max, Math.log(sum)];
}
