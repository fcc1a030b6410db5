import { FLAT_INDEX, type GpuPlanner, grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import type { Slot } from '../../engine/plan.ts';
import { type KernelBody, launchKernel } from './launch-kernel.ts';

/** Invocations in a workgroup of the row kernels. */
const WG = 256;

/** How many invocations share a row of that many columns: about four columns each, so that short rows waste none. */
function lanesFor(columns: number): number {
  let lanes = 8;
  while (lanes < WG && lanes * 4 < columns) lanes *= 2;
  return lanes;
}

/** WGSL: sums over a row's lanes, by a fixed tree. */
const ROW_SUMS = /* wgsl */ `${FLAT_INDEX}
var<workgroup> tree: array<vec2<f32>, WG>;
fn row_sum2(value: vec2<f32>, local: u32) -> vec2<f32> {
  tree[local] = value;
  workgroupBarrier();
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    if (local % LANES < step) { tree[local] += tree[local + step]; }
    workgroupBarrier();
  }
  let sum = tree[local - local % LANES];
  workgroupBarrier();
  return sum;
}
fn row_sum(value: f32, local: u32) -> f32 { return row_sum2(vec2<f32>(value, 0.0), local).x; }
`;

/**
 * A kernel that gives each of some rows several invocations. Its body sees the `row`, which may be past the last one, so
 * that all take part in `row_sum` and `row_sum2`; the invocation's place, `lane`, among the LANES of the row; and `base`,
 * where the row's elements begin.
 */
export function launchRows(rows: number, columns: number, kernel: KernelBody, device: GpuPlanner): Launch {
  const lanes = lanesFor(columns);
  return launchKernel(
    {
      ...kernel,
      key: `${kernel.key}.${lanes}`,
      params: { rows: ['u32', rows], columns: ['u32', columns], ...kernel.params },
      constants: { WG, LANES: lanes, ...kernel.constants },
      code: () => /* wgsl */ `${ROW_SUMS}${kernel.declarations?.() ?? ''}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let row = flat_group(group, groups) * (WG / LANES) + local / LANES;
  let lane = local % LANES;
  let base = min(row, params.rows - 1u) * params.columns;
  ${kernel.body()}
}`,
      grid: grid1d(rows * lanes, WG),
    },
    device,
  );
}

const COLUMN_SUM = /* wgsl */ `${FLAT_INDEX}
var<workgroup> tree: array<f32, 256>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let c = flat_group(group, groups) * 16u + local % 16u;
  var sum = 0.0;
  if (c < params.columns) {
    for (var r = local / 16u; r < params.rows; r += 16u) {
      sum += xs[r * params.stride + params.offset + c];
    }
  }
  tree[local] = sum;
  workgroupBarrier();
  for (var step = 128u; step >= 16u; step /= 2u) {
    if (local < step) { tree[local] += tree[local + step]; }
    workgroupBarrier();
  }
  if (local < 16u && c < params.columns) { ys[c] = tree[local]; }
}`;

const COLUMN_SUM_WIDE = /* wgsl */ `${FLAT_INDEX}
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let c = flat_index(group, groups, local, 256u);
  if (c >= params.columns) { return; }
  var sum = 0.0;
  for (var r = 0u; r < params.rows; r += 1u) { sum += xs[r * params.stride + params.offset + c]; }
  ys[c] = sum;
}`;

/** From here on there are columns enough to give each one invocation. */
const WIDE = 16384;

/**
 * Second stage of a reduction over rows: y[c] = Σ_r x[r, offset + c] with `stride` values a row. Meant for some
 * hundred rows.
 */
export function columnSum(x: Slot, y: Slot, rows: number, stride: number, offset: number): Launch {
  const wide = y.size >= WIDE;
  return {
    shader: shader(wide ? 'rows.column_sum.wide' : 'rows.column_sum', () => ({
      reads: { xs: 'f32' },
      writes: { ys: 'f32' },
      params: { rows: 'u32', columns: 'u32', stride: 'u32', offset: 'u32' },
      code: wide ? COLUMN_SUM_WIDE : COLUMN_SUM,
    })),
    args: [x, y],
    params: [rows, y.size, stride, offset],
    grid: grid1d(y.size, wide ? 256 : 16),
  };
}
