import { FLAT_INDEX, grid1d, type Launch, type Shader } from '../../engine/backends/webgpu/launch.ts';
import { type GpuArg } from '../../engine/positional.ts';

const WORKGROUP = 256;

/** The entry point of kernels with one invocation per element; WG is its workgroup size. */
export const FLAT_MAIN = /* wgsl */ `${FLAT_INDEX}
const WG = ${WORKGROUP}u;
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32)`;

/** Launches a FLAT_MAIN kernel for `items` invocations. */
export function flatLaunch(shader: Shader, args: GpuArg[], params: number[], items: number): Launch {
  return { shader, args, params, grid: grid1d(items, WORKGROUP) };
}

/** Terms that are added up before they go to the whole: long sums lose no digits so. */
const BLOCK = 512;

/** WGSL that adds to `sum`, of that type, what `term` adds to `part` for each j below `params.count`, in order. */
export const sumInBlocks = (term: string, type = 'f32'): string => /* wgsl */ `
  for (var first = 0u; first < params.count; first += ${BLOCK}u) {
    var part = ${type}();
    for (var j = first; j < min(first + ${BLOCK}u, params.count); j += 1u) { ${term} }
    sum += part;
  }`;
