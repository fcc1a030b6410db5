import { type GpuPlanner, grid1d, type Launch } from '../../engine/backends/webgpu/launch.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import { launchRows } from '../common/rows.ts';
import { sumRows } from '../reduce/fold.ts';

export interface NormAttrs {
  /** Whether the mean is taken off. */
  readonly center: boolean;
  /** Where silu(z) is multiplied by: not at all, before or after the norm. */
  readonly gate: 'none' | 'first' | 'last';
  /** Consecutive channels that are normalised together. */
  readonly group: number;
  readonly eps: number;
}

const SILU = /* wgsl */ `
fn sigmoid_(v: f32) -> f32 { let e = exp(-abs(v)); return select(e, 1.0, v >= 0.0) / (1.0 + e); }
fn silu(v: f32) -> f32 { return v * sigmoid_(v); }
fn dsilu(v: f32) -> f32 { let s = sigmoid_(v); return s * (1.0 + v * (1.0 - s)); }
`;

/** WGSL: `value`, which is normalised, and `after`, which the result is multiplied by. */
const gated = (gate: NormAttrs['gate']) => /* wgsl */ `${gate === 'none' ? '' : SILU}
fn value(i: u32) -> f32 { return load_x(i)${gate === 'first' ? ' * silu(load_z(i))' : ''}; }
fn after(i: u32) -> f32 { return ${gate === 'last' ? 'silu(load_z(i))' : '1.0'}; }`;

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

type Slots<N extends string> = { readonly [K in N]?: Slot };

/** y and the statistics of each row, which is a group of channels. */
export function launchForward(
  reads: Slots<'z' | 'bias'> & { readonly x: Slot; readonly weight: Slot },
  writes: Slots<'y' | 'mean' | 'rstd'>,
  { center, gate, group, eps }: NormAttrs,
  device: GpuPlanner,
): Launch {
  const kernel = {
    key: `norm.${gate}`,
    reads,
    writes,
    params: { groups: reads.weight.size / group, eps: ['f32', eps] } as const,
    declarations: () => gated(gate) + RSTD,
    body: () => /* wgsl */ `
  let w = (row % params.groups) * params.columns;
  let share = share_of(params.columns);
  var sums = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let v = value(base + c) * share;
    sums += vec2<f32>(v, abs(v));
  }
  let averages = row_sum2(sums, local) / (f32(params.columns) * share);
  let mean = ${center ? 'averages.x' : '0.0'};
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
    store_y(base + c, (hat * load_weight(w + c)${reads.bias ? ' + load_bias(w + c)' : ''}) * after(base + c));
  }
  if (lane > 0u) { return; }
  ${center ? 'store_mean(row, mean);' : ''}
  store_rstd(row, rstd);`,
  };
  return launchRows(reads.x.size / group, group, kernel, device);
}

/** dx and dz: rstd·(g − mean(g) − x̂·mean(g·x̂)) with g = dy·weight, taken through the gate. */
export function launchInputsBackward(
  reads: Slots<'z' | 'dy' | 'mean' | 'rstd'> & { readonly x: Slot; readonly weight: Slot },
  writes: Slots<'dx' | 'dz'>,
  { center, gate, group }: NormAttrs,
  device: GpuPlanner,
): Launch {
  const store = {
    none: 'store_dx(i, du);',
    first: 'store_dx(i, du * silu(load_z(i))); store_dz(i, du * load_x(i) * dsilu(load_z(i)));',
    last: 'store_dx(i, du); store_dz(i, load_dy(i) * load_weight(w + c) * hat * dsilu(load_z(i)));',
  };
  const kernel = {
    key: `norm.backward.${gate}`,
    reads,
    writes,
    params: { groups: reads.weight.size / group },
    declarations: () => /* wgsl */ `${gated(gate)}
fn slope(i: u32, w: u32) -> f32 { return load_dy(i) * load_weight(w) * after(i); }`,
    body: () => /* wgsl */ `
  let safe = min(row, params.rows - 1u);
  let w = (row % params.groups) * params.columns;
  let mean = ${center ? 'load_mean(safe)' : '0.0'};
  let rstd = load_rstd(safe);
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
    let du = rstd * (slope(i, w + c)${center ? ' - means_of.x' : ''} - hat * means_of.y);
    ${store[gate]}
  }`,
  };
  return launchRows(reads.x.size / group, group, kernel, device);
}

/** Slices of rows that the first stage of the weights' gradient sums apart. */
const SLICES = 256;
const MIN_SLICE = 32;

/** dweight and dbias: first of tiles of 64 channels over slices of the rows, four rows at a time; then of all. */
export function launchWeightsBackward(
  reads: Slots<'z' | 'dy' | 'mean' | 'rstd'> & { readonly x: Slot },
  { dweight, dbias }: { readonly dweight: Slot; readonly dbias?: Slot },
  { center, gate, group }: NormAttrs,
  device: GpuPlanner,
): Launch[] {
  const channels = dweight.size;
  const rows = reads.x.size / channels;
  const perSlice = Math.max(MIN_SLICE, Math.ceil(rows / SLICES));
  const slices = Math.max(1, Math.ceil(rows / perSlice));
  const outputs = dbias ? [dweight, dbias] : [dweight];
  const sums = outputs.map(() => device.scratch([slices, channels]));
  const first = launchKernel(
    {
      key: `norm.weights.${gate}.${outputs.length}`,
      reads,
      writes: { dweights: sums[0], dbiases: sums[1] },
      workgroup: 256,
      params: { rows, channels, columns: group, slice: perSlice },
      code: () => /* wgsl */ `${gated(gate)}
var<workgroup> tree: array<vec2<f32>, WG>;
fn kernel(group: u32, local: u32) {
  let tiles = (params.channels + 63u) / 64u;
  let c = group % tiles * 64u + local % 64u;
  let slice = group / tiles;
  let end = min(params.rows, (slice + 1u) * params.slice);
  var sums = vec2<f32>();
  if (c < params.channels) {
    let groups = params.channels / params.columns;
    let first = c / params.columns;
    for (var r = slice * params.slice + local / 64u; r < end; r += 4u) {
      let i = r * params.channels + c;
      let s = r * groups + first;
      let g = load_dy(i) * after(i);
      sums += vec2<f32>(g * (value(i)${center ? ' - load_mean(s)' : ''}) * load_rstd(s), g);
    }
  }
  tree[local] = sums;
  workgroupBarrier();
  if (local >= 64u || c >= params.channels) { return; }
  let total = (tree[local] + tree[local + 64u]) + (tree[local + 128u] + tree[local + 192u]);
  store_dweights(slice * params.channels + c, total.x);
  ${dbias ? 'store_dbiases(slice * params.channels + c, total.y);' : ''}
}`,
      grid: grid1d(Math.ceil(channels / 64) * slices, 1),
    },
    device,
  );
  return [first, ...outputs.map((out, i) => sumRows(sums[i], out, device))];
}
