import { FLAT_INDEX, type ShaderSpec } from '../../engine/backends/webgpu/launch.ts';
import { ROW_MAIN, ROWS } from '../common/rows.ts';

/** What tells the norms apart. */
export interface NormKind {
  readonly key: 'layer' | 'rms' | 'gateFirst' | 'gateLast';
  readonly name: string;
  /** Subtract the mean. */
  readonly center: boolean;
  readonly bias: boolean;
  /** Multiply by silu(z): not at all, before or after the norm. */
  readonly gate: 'none' | 'first' | 'last';
}

type Source = Pick<ShaderSpec, 'reads' | 'writes' | 'params' | 'code'>;

const SILU = /* wgsl */ `
fn sigmoid_(v: f32) -> f32 { let e = exp(-abs(v)); return select(e, 1.0, v >= 0.0) / (1.0 + e); }
fn silu(v: f32) -> f32 { return v * sigmoid_(v); }
fn dsilu(v: f32) -> f32 { let s = sigmoid_(v); return s * (1.0 + v * (1.0 - s)); }
`;

function helpers(kind: NormKind): string {
  const value = kind.gate === 'first' ? 'xs[i] * silu(zs[i])' : 'xs[i]';
  return `${kind.gate === 'none' ? '' : SILU}
fn value(i: u32) -> f32 { return ${value}; }`;
}

function gateReads(kind: NormKind): Record<string, string> {
  return kind.gate === 'none' ? {} : { zs: 'f32' };
}

function stats(kind: NormKind): Record<string, string> {
  return kind.center ? { means: 'f32', rstds: 'f32' } : { rstds: 'f32' };
}

/**
 * WGSL: what rows of any f32 are multiplied by before they are summed, what before they are squared, and their
 * 1/√(variance + eps) from that.
 */
const RSTD = /* wgsl */ `
// A power of two that n numbers can be multiplied by and then not overflow in their sum.
fn share_of(n: u32) -> f32 { return bitcast<f32>((127u - firstLeadingBit(2u * n - 1u)) << 23u); }
// A power of two near 1/size; 1 where squares neither vanish nor overflow without.
fn scale_for(size: f32) -> f32 {
  let exponent = clamp((bitcast<u32>(size) >> 23u) & 0xffu, 1u, 253u);
  return select(bitcast<f32>((254u - exponent) << 23u), 1.0, exponent > 90u && exponent < 164u);
}
fn rstd_of(squares: f32, scale: f32, eps: f32) -> f32 {
  if (scale == 1.0) { return 1.0 / sqrt(squares + eps); }
  let a = sqrt(squares) / scale;
  let b = sqrt(eps);
  let large = max(a, b);
  let ratio = select(min(a, b) / large, 0.0, large == 0.0);
  return 1.0 / (large * sqrt(1.0 + ratio * ratio));
}`;

/** One row of a group of channels per LANES invocations. */
export function normForwardWgsl(kind: NormKind): Source {
  const gate = kind.gate === 'last' ? ' * silu(zs[base + c])' : '';
  return {
    reads: { xs: 'f32', ...gateReads(kind), weight: 'f32', ...(kind.bias ? { bias: 'f32' } : {}) },
    writes: { ys: 'f32', ...stats(kind) },
    params: { rows: 'u32', columns: 'u32', groups: 'u32', eps: 'f32' },
    code: /* wgsl */ `${ROWS}${helpers(kind)}${RSTD}
${ROW_MAIN} {
  let row = row_of(group, groups, local);
  let lane = local % LANES;
  let base = min(row, params.rows - 1u) * params.columns;
  let w = (row % params.groups) * params.columns;
  let share = share_of(params.columns);
  var sums = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let v = value(base + c) * share;
    sums += vec2<f32>(v, abs(v));
  }
  let averages = row_sum2(sums, local) / (f32(params.columns) * share);
  let mean = ${kind.center ? 'averages.x' : '0.0'};
  let scale = scale_for(averages.y);
  var squares = 0.0;
  for (var c = lane; c < params.columns; c += LANES) {
    let d = value(base + c) * scale - mean * scale;
    squares += d * d;
  }
  let rstd = rstd_of(row_sum(squares, local) / f32(params.columns), scale, params.eps);
  if (row >= params.rows) { return; }
  for (var c = lane; c < params.columns; c += LANES) {
    let hat = (value(base + c) * scale - mean * scale) * (rstd / scale);
    let scaled = hat * weight[w + c]${kind.bias ? ' + bias[w + c]' : ''};
    ys[base + c] = scaled${gate};
  }
  if (lane == 0u) { ${kind.center ? 'means[row] = mean; ' : ''}rstds[row] = rstd; }
}`,
  };
}

/** dx (and dz): rstd·(g − mean(g) − x̂·mean(g·x̂)) with g = dy·weight, taken through the gate. */
export function normBackwardWgsl(kind: NormKind): Source {
  const store = {
    none: 'dxs[i] = du;',
    first: 'dxs[i] = du * silu(zs[i]); dzs[i] = du * xs[i] * dsilu(zs[i]);',
    last: 'dxs[i] = du; dzs[i] = dys[i] * weight[w + c] * hat * dsilu(zs[i]);',
  }[kind.gate];
  return {
    reads: { xs: 'f32', ...gateReads(kind), weight: 'f32', dys: 'f32', ...stats(kind) },
    writes: { dxs: 'f32', ...(kind.gate === 'none' ? {} : { dzs: 'f32' }) },
    params: { rows: 'u32', columns: 'u32', groups: 'u32' },
    code: /* wgsl */ `${ROWS}${helpers(kind)}
fn slope(i: u32, w: u32) -> f32 { return dys[i] * weight[w]${kind.gate === 'last' ? ' * silu(zs[i])' : ''}; }
${ROW_MAIN} {
  let row = row_of(group, groups, local);
  let safe = min(row, params.rows - 1u);
  let lane = local % LANES;
  let base = safe * params.columns;
  let w = (row % params.groups) * params.columns;
  let mean = ${kind.center ? 'means[safe]' : '0.0'};
  let rstd = rstds[safe];
  var sums = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let g = slope(base + c, w + c);
    sums += vec2<f32>(g, g * (value(base + c) - mean) * rstd);
  }
  let means_of = row_sum2(sums, local) / f32(params.columns);
  if (row >= params.rows) { return; }
  for (var c = lane; c < params.columns; c += LANES) {
    let i = base + c;
    let hat = (value(i) - mean) * rstd;
    let du = rstd * (slope(i, w + c)${kind.center ? ' - means_of.x' : ''} - hat * means_of.y);
    ${store}
  }
}`,
  };
}

/** First stage of dweight (and dbias): a tile of 64 channels over a slice of the rows, four rows at a time. */
export function normWeightsWgsl(kind: NormKind): Source {
  return {
    reads: { xs: 'f32', ...gateReads(kind), dys: 'f32', ...stats(kind) },
    writes: { partial: 'f32' },
    params: { rows: 'u32', channels: 'u32', columns: 'u32', slice: 'u32', stride: 'u32' },
    code: /* wgsl */ `${FLAT_INDEX}${helpers(kind)}
var<workgroup> tree: array<vec2<f32>, 256>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let c = flat_group(group, groups) * 64u + local % 64u;
  let end = min(params.rows, (group.z + 1u) * params.slice);
  var sums = vec2<f32>();
  if (c < params.channels) {
    let groups = params.channels / params.columns;
    let first = c / params.columns;
    for (var r = group.z * params.slice + local / 64u; r < end; r += 4u) {
      let i = r * params.channels + c;
      let s = r * groups + first;
      let g = dys[i]${kind.gate === 'last' ? ' * silu(zs[i])' : ''};
      sums += vec2<f32>(g * (value(i)${kind.center ? ' - means[s]' : ''}) * rstds[s], g);
    }
  }
  tree[local] = sums;
  workgroupBarrier();
  if (local >= 64u || c >= params.channels) { return; }
  let total = (tree[local] + tree[local + 64u]) + (tree[local + 128u] + tree[local + 192u]);
  partial[group.z * params.stride + c] = total.x;
  ${kind.bias ? 'partial[group.z * params.stride + params.channels + c] = total.y;' : ''}
}`,
  };
}
