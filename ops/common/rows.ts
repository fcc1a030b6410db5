import type { Launch } from '../../engine/backends/webgpu/launch.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { type GpuArg } from '../../engine/positional.ts';

/** Invocations in a workgroup of the row kernels. */
export const ROW_WORKGROUP = 256;

/** How many invocations share a row of that many columns: about four columns each, so that short rows waste none. */
export function lanesFor(columns: number): number {
  let lanes = 8;
  while (lanes < ROW_WORKGROUP && lanes * 4 < columns) lanes *= 2;
  return lanes;
}

/** Workgroups for kernels that give each row `lanes` invocations. */
export function rowGrid(rows: number, lanes: number): [number, number, number] {
  return grid1d(rows * lanes, ROW_WORKGROUP);
}

/**
 * WGSL for row kernels, with constants WG and LANES: `row_of` is the invocation's row, `row_sum` and `row_sum2` add
 * over its lanes by a fixed tree. All invocations must call them, also those past the last row.
 */
export const ROWS = /* wgsl */ `${FLAT_INDEX}
var<workgroup> tree: array<vec2<f32>, WG>;

fn row_of(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
  return flat_group(group, groups) * (WG / LANES) + local / LANES;
}
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

/** The arguments of a row kernel's entry point. */
export const ROW_MAIN = /* wgsl */ `
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32)`;

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
export function columnSum(x: GpuArg, y: GpuArg, rows: number, stride: number, offset: number): Launch {
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
