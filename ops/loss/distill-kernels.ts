import { shader } from '../../engine/backends/webgpu/launch.ts';
import { FLAT_MAIN } from '../common/flat.ts';
import { ORDER } from '../reduce/order.ts';
import { LOG_SUMS } from './row-losses.ts';
import { ROW_MAIN, ROW_WORKGROUP, ROWS } from '../common/rows.ts';
import { squaresWgsl } from '../common/squares.ts';

/**
 * Statistics of a row: the student's maximum and log Σ exp((x − maximum)/T), the teacher's, and what else the gradient
 * needs: the loss for `reverse`, half the student's share of it for `jsd`, the teacher's argmax for `ce`.
 */
export const STATS = 5;

export type DistillKind = 'kl' | 'reverse' | 'jsd' | 'ce' | 'l2';

/**
 * log cosh(x), by its series near zero, where the logarithm would lose every digit.
 * A student that has learned its teacher lives there.
 */
const LOG_COSH = /* wgsl */ `
fn log_cosh(x: f32) -> f32 {
  let a = abs(x);
  let s = x * x;
  let near = s * (0.5 - s * (0.083333333 - s * (0.022222222 - s * 0.0067460317)));
  return select(a + log(1.0 + exp(-2.0 * a)) - 0.69314718, near, a < 0.25);
}
`;

/**
 * Terms of a row's (loss, aux) for each divergence, of a = log p_s and b = log p_t. Adding p_s − p_t, which sums to
 * zero, makes every term of the KLs non-negative and cancels what rounding did to the two logsumexps.
 */
const TERMS = {
  kl: 'vec2<f32>(scaled(q, b - a) + (p - q), 0.0)',
  reverse: 'vec2<f32>(scaled(p, a - b) + (q - p), 0.0)',
  jsd: 'vec2<f32>(scaled(0.5 * (p + q), log_cosh(0.5 * (a - b))), scaled(0.5 * p, log_cosh(0.5 * (a - b))))',
} as const;

const SCALED = /* wgsl */ `
fn scaled(p: f32, x: f32) -> f32 { return select(p * x, 0.0, p == 0.0); }
`;

const DIVERGENCE = (kind: keyof typeof TERMS) => /* wgsl */ `
  var sum_s = no_exp();
  var sum_t = no_exp();
  for (var c = lane; c < params.columns; c += LANES) {
    sum_s = join_exp(sum_s, vec2<f32>(ss[base + c], 1.0), params.k);
    sum_t = join_exp(sum_t, vec2<f32>(ts[base + c], 1.0), params.k);
  }
  let logs = max_and_log_sum(sum_s, sum_t, params.k, local);
  var terms = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let a = (ss[base + c] - logs.x) * params.k - logs.y;
    let b = (ts[base + c] - logs.z) * params.k - logs.w;
    let p = exp(a);
    let q = exp(b);
    terms += ${TERMS[kind]};
  }
  let sum = row_sum2(terms, local);
  let loss = sum.x;
  let aux = ${kind === 'reverse' ? 'sum.x' : 'sum.y'};`;

/** The teacher's argmax: the first of several, NaN the largest. */
const ARGMAX = /* wgsl */ `
  var sum = no_exp();
  var best = vec2<u32>(0u, 0xffffffffu);
  for (var c = lane; c < params.columns; c += LANES) {
    sum = join_exp(sum, vec2<f32>(ss[base + c], 1.0), 1.0);
    best = first_of(best, vec2<u32>(order_key(ts[base + c]), c));
  }
  let logs = max_and_log_sum(sum, no_exp(), 1.0, local);
  places[local] = best;
  workgroupBarrier();
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    if (local % LANES < step) { places[local] = first_of(places[local], places[local + step]); }
    workgroupBarrier();
  }
  let place = places[local - lane].y;
  let aux = f32(place);
  let loss = logs.y - (ss[base + place] - logs.x);`;

/** The norm, not its square: that is beyond f32 for differences that are not. */
const NORM = /* wgsl */ `
  var sums = vec3<f32>();
  for (var c = lane; c < params.columns; c += LANES) { sums += squares(ss[base + c] - ts[base + c]); }
  let loss = norm_of(vec3<f32>(row_sum2(sums.xy, local), row_sum(sums.z, local)));
  let logs = vec4<f32>();
  let aux = 0.0;`;

/** Losses of rows (`l2`: their roots) and, in `stats`, what the backward needs: see STATS. */
export function distillForward(kind: DistillKind, lanes: number) {
  return shader(`distill_loss.${kind}.${lanes}`, () => ({
    reads: { ss: 'f32', ts: 'f32' },
    writes: { losses: 'f32', stats: 'f32' },
    params: { rows: 'u32', columns: 'u32', k: 'f32' },
    constants: { WG: ROW_WORKGROUP, LANES: lanes, STATS },
    code: /* wgsl */ `${ROWS}${LOG_SUMS}${ORDER}${SCALED}${LOG_COSH}${squaresWgsl}
var<workgroup> places: array<vec2<u32>, WG>;
${ROW_MAIN} {
  let row = row_of(group, groups, local);
  let lane = local % LANES;
  let base = min(row, params.rows - 1u) * params.columns;
  ${kind === 'ce' ? ARGMAX : kind === 'l2' ? NORM : DIVERGENCE(kind)}
  if (row >= params.rows || lane > 0u) { return; }
  losses[row] = loss;
  stats[row * STATS] = logs.x;
  stats[row * STATS + 1u] = logs.y;
  stats[row * STATS + 2u] = logs.z;
  stats[row * STATS + 3u] = logs.w;
  stats[row * STATS + 4u] = aux;
}`,
  }));
}

/** The derivative of a row's loss by one logit of the student, of a = log p_s, b = log p_t and aux. */
const SLOPES = {
  kl: 'params.k * (p - q)',
  reverse: 'params.k * scaled(p, a - b - aux)',
  jsd: 'params.k * (scaled(p, 0.5 * log_cosh(0.5 * (a - b)) - aux) + 0.25 * (p - q))',
  ce: 'p - select(0.0, 1.0, u32(aux) == c)',
  l2: '2.0 * (ss[i] - ts[i])',
} as const satisfies Record<DistillKind, string>;

/** One invocation per logit. */
export function distillBackward(kind: DistillKind, weighted: boolean) {
  return shader(`distill_loss.backward.${kind}.${weighted}`, () => ({
    reads: { ss: 'f32', ts: 'f32', stats: 'f32', factor: 'f32', dys: 'f32', ...(weighted ? { weights: 'f32' } : {}) },
    writes: { dss: 'f32' },
    params: { n: 'u32', columns: 'u32', k: 'f32' },
    constants: { STATS },
    code: /* wgsl */ `${SCALED}${LOG_COSH}
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  let row = i / params.columns;
  let c = i - row * params.columns;
  let at = row * STATS;
  let a = (ss[i] - stats[at]) * params.k - stats[at + 1u];
  let b = (ts[i] - stats[at + 2u]) * params.k - stats[at + 3u];
  let aux = stats[at + 4u];
  let p = exp(a);
  let q = exp(b);
  let w = factor[0] * dys[0]${weighted ? ' * weights[row]' : ''};
  dss[i] = select(w * (${SLOPES[kind]}), 0.0, w == 0.0);
}`,
  }));
}
