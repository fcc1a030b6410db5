import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchRows } from '../common/rows.ts';
import { foldLaunches } from '../reduce/fold.ts';

export interface NormAttrs {
  /** Whether the mean is taken off. */
  readonly center: boolean;
  /** Where silu(z) is multiplied by: not at all, before or after the norm. */
  readonly gate: 'none' | 'first' | 'last';
  /** Consecutive channels that are normalised together. */
  readonly group: number;
  readonly eps: number;
}

/** WGSL of what is normalised, at place i, and of what the result is multiplied by. */
const sourceAt = (gate: NormAttrs['gate']) => (gate === 'first' ? 'load_x(i) * silu(load_z(i))' : 'load_x(i)');
const afterAt = (gate: NormAttrs['gate']) => (gate === 'last' ? 'silu(load_z(i))' : '1.0');
const gated = (gate: NormAttrs['gate']) => /* wgsl */ `
fn source(i: u32) -> f32 { return ${sourceAt(gate)}; }
fn after(i: u32) -> f32 { return ${afterAt(gate)}; }`;

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
    let v = source(base + c) * share;
    sums += vec2<f32>(v, abs(v));
  }
  let averages = row_sum2(sums, local) / (f32(params.columns) * share);
  let mean = ${center ? 'averages.x' : '0.0'};
  let scale = scale_for(averages.y);
  var squares = 0.0;
  for (var c = lane; c < params.columns; c += LANES) {
    let d = source(base + c) * scale - mean * scale;
    squares += d * d;
  }
  let rstd = rstd_of(row_sum(squares, local) / f32(params.columns), scale, params.eps);
  if (row >= params.rows) { return; }
  for (var c = lane; c < params.columns; c += LANES) {
    let hat = (source(base + c) * scale - mean * scale) * (rstd / scale);
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
    sums += vec2<f32>(g, g * (source(base + c) - mean) * rstd);
  }
  let means_of = row_sum2(sums, local) / f32(params.columns);
  if (row >= params.rows) { return; }
  for (var c = lane; c < params.columns; c += LANES) {
    let i = base + c;
    let hat = (source(i) - mean) * rstd;
    let du = rstd * (slope(i, w + c)${center ? ' - means_of.x' : ''} - hat * means_of.y);
    ${store[gate]}
  }`,
  };
  return launchRows(reads.x.size / group, group, kernel, device);
}

/** dweight and dbias: sums over the rows. */
export function launchWeightsBackward(
  reads: Slots<'z' | 'dy' | 'mean' | 'rstd'> & { readonly x: Slot },
  writes: { readonly dweight: Slot; readonly dbias?: Slot },
  { center, gate, group }: NormAttrs,
  device: GpuPlanner,
): Launch[] {
  const stat = 'i / params.columns';
  const hat = `(${sourceAt(gate)}${center ? ` - load_mean(${stat})` : ''}) * load_rstd(${stat})`;
  const [acc, terms, store] = writes.dbias
    ? ['vec2<f32>', `vec2(${hat}, 1.0)`, 'store_dweight(o, a.x); store_dbias(o, a.y);']
    : ['f32', hat, 'store_dweight(o, a);'];
  const fold = { type: acc, load: `${terms} * (load_dy(i) * ${afterAt(gate)})`, acc, lift: 'v', join: 'a + b' };
  const kernel = { name: `norm.weights.${gate}.${acc}`, reads, writes, params: { columns: group }, fold, store };
  return foldLaunches(kernel, reads.x.shape.slice(0, -1).map((_, d) => d), device);
}
