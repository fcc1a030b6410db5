import { type GpuArg, type Launch, shader } from '../engine/backends/webgpu/launch.ts';

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

const FINISH = (weighted: boolean) => /* wgsl */ `
var<workgroup> tree: array<vec2<f32>, 256>;
fn term(r: u32) -> vec2<f32> {
  let at = min(r, params.rows - 1u);
  let loss = losses[at];
  let w = ${weighted ? 'weights[at]' : '1.0'};
  return select(vec2<f32>(w * loss, w), vec2<f32>(), r >= params.rows || w == 0.0);
}
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
  // Four chains, so that loads overlap.
  var a = vec2<f32>();
  var b = vec2<f32>();
  var c = vec2<f32>();
  var d = vec2<f32>();
  for (var r = local; r < params.rows; r += 1024u) {
    a += term(r);
    b += term(r + 256u);
    c += term(r + 512u);
    d += term(r + 768u);
  }
  tree[local] = (a + b) + (c + d);
  workgroupBarrier();
  for (var step = 128u; step > 0u; step /= 2u) {
    if (local < step) { tree[local] += tree[local + step]; }
    workgroupBarrier();
  }
  if (local > 0u) { return; }
  var f = params.factor;
  if (params.by_weight == 1u) { f = select(f / tree[0].y, 0.0, tree[0].y == 0.0); }
  let loss = tree[0].x * f;
  if (params.root == 0u) {
    loss_out[0] = loss;
    factor_out[0] = f;
  } else {
    loss_out[0] = sqrt(loss);
    factor_out[0] = select(0.5 * f / sqrt(loss), 0.0, loss == 0.0);
  }
}`;

/** The last stage of a loss: (rows) losses and perhaps weights → loss [] and factor [], in a fixed order. */
export function finishLaunch(losses: GpuArg, weights: GpuArg | null, loss: GpuArg, factor: GpuArg, f: Finish): Launch {
  const weighted = weights !== null;
  return {
    shader: shader(`row_losses.${weighted}`, () => ({
      reads: { losses: 'f32', ...(weighted ? { weights: 'f32' } : {}) },
      writes: { loss_out: 'f32', factor_out: 'f32' },
      params: { rows: 'u32', factor: 'f32', by_weight: 'u32', root: 'u32' },
      code: FINISH(weighted),
    })),
    args: weighted ? [losses, weights, loss, factor] : [losses, loss, factor],
    params: [losses.size, f.factor, Number(f.byWeight), Number(f.root)],
    grid: [1, 1, 1],
  };
}

/**
 * WGSL for logsumexp in one pass, to go with ROWS: (max, Σ exp(x − max)) pairs for two series at once, as
 * (max, sum, max, sum). `log_sums` gives both logarithms over a row's lanes.
 */
export const LOG_SUMS = /* wgsl */ `
const NOTHING = vec4<f32>(-1e30, 0.0, -1e30, 0.0);
var<workgroup> pairs: array<vec4<f32>, WG>;
fn join(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  let m = max(a.xz, b.xz);
  let z = a.yw * exp(a.xz - m) + b.yw * exp(b.xz - m);
  return vec4<f32>(m.x, z.x, m.y, z.y);
}
fn log_sums(mine: vec4<f32>, local: u32) -> vec2<f32> {
  pairs[local] = mine;
  workgroupBarrier();
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    if (local % LANES < step) { pairs[local] = join(pairs[local], pairs[local + step]); }
    workgroupBarrier();
  }
  let all = pairs[local - local % LANES];
  workgroupBarrier();
  return all.xz + log(all.yw);
}
`;

/** log Σ exp(x·scale) of one row. */
export function logSumExp(data: ArrayLike<number>, at: number, n: number, scale = 1): number {
  let max = -Infinity;
  for (let c = 0; c < n; c++) max = Math.max(max, data[at + c] * scale);
  let sum = 0;
  for (let c = 0; c < n; c++) sum += Math.exp(data[at + c] * scale - max);
  return max + Math.log(sum);
}
