import { apply } from '../../engine/apply.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { defineOp } from '../../engine/op.ts';
import { noGrad } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';

const incrementOp = /* @__PURE__ */ defineOp<{ readonly by: number }, 'x', never>({
  name: 'increment',
  inputs: ['x'],
  outputs: [],
  mutates: ['x'],
  shape({ x }) {
    expectDType('increment_', 'x', x.dtype, 'i32');
    return {};
  },
  reference({ x }, _, { by }) {
    for (let i = 0; i < x.size; i++) x.data[i] += by;
  },
  webgpu({ x }, _, { by }) {
    const kernel = shader('increment', () => ({
      writes: { x: 'i32' },
      params: { count: 'u32', by: 'i32' },
      code: /* wgsl */ `${FLAT_INDEX}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, 64u);
  if (i < params.count) { x[i] += params.by; }
}`,
    }));
    return [{ shader: kernel, args: [x], params: [x.size, by], grid: grid1d(x.size, 64) }];
  },
});

/** x += by in place: i32 of any shape, such as a position that is counted on the device. Has no gradient. */
export function increment_(x: Tensor, by = 1): void {
  noGrad(() => apply(incrementOp, { x }, { by }));
}
