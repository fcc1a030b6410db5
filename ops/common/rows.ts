import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { type KernelBody, launchKernel } from './launch-kernel.ts';

/** Invocations in a workgroup of the row kernels. */
const WG = 256;

/** How many invocations share a row of that many columns: about four columns each, so that short rows waste none. */
function lanesFor(columns: number): number {
  let lanes = 8;
  while (lanes < WG && lanes * 4 < columns) lanes *= 2;
  return lanes;
}

/** WGSL of `name(value, local)`: what the values of a row's lanes make together, a and b at a time, by a fixed tree. */
export const rowFold = (name: string, type: string, join = 'a + b'): string => /* wgsl */ `
var<workgroup> lanes_${name}: array<${type}, WG>;
fn ${name}(value: ${type}, local: u32) -> ${type} {
  lanes_${name}[local] = value;
  workgroupBarrier();
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    if (local % LANES < step) {
      let a = lanes_${name}[local];
      let b = lanes_${name}[local + step];
      lanes_${name}[local] = ${join};
    }
    workgroupBarrier();
  }
  let all = lanes_${name}[local - local % LANES];
  workgroupBarrier();
  return all;
}
`;

const ROW_SUMS = /* wgsl */ `${rowFold('row_sum2', 'vec2<f32>')}
fn row_sum(value: f32, local: u32) -> f32 { return row_sum2(vec2<f32>(value, 0.0), local).x; }
`;

/**
 * A kernel that gives each of some rows several invocations. Its body sees the `row`, which may be past the last one,
 * so that all take part in `row_sum` and `row_sum2`; the invocation's place, `lane`, among the LANES of the row; and
 * `base`, where the row's elements begin.
 */
export function launchRows(device: GpuPlanner, rows: number, columns: number, kernel: KernelBody): Launch {
  const lanes = lanesFor(columns);
  return launchKernel(device, {
    ...kernel,
    key: `${kernel.key}.${lanes}`,
    params: { rows, columns, ...kernel.params },
    constants: { LANES: lanes, ...kernel.constants },
    workgroup: WG,
    code: () => /* wgsl */ `${ROW_SUMS}${kernel.declarations?.() ?? ''}
fn kernel(group: u32, local: u32) {
  let row = group * (WG / LANES) + local / LANES;
  let lane = local % LANES;
  let base = min(row, params.rows - 1u) * params.columns;
  ${kernel.body()}
}`,
    groups: Math.ceil((rows * lanes) / WG),
  });
}
