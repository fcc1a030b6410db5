import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import code from './cumsum.wgsl';
import { around, normalizeDim } from '../common/shapes.ts';

interface CumsumAttrs {
  readonly dim: number;
  readonly reverse: boolean;
}

const INDEX = /* wgsl */ `
fn base_of(line: u32) -> u32 { return (line / params.inner) * params.len * params.inner + line % params.inner; }
fn index(base: u32, k: u32) -> u32 {
  return base + select(k, params.len - 1u - k, params.reverse == 1u) * params.inner;
}
`;

/** For many or short lines: every thread sums one of its own. */
const ALONE = /* wgsl */ `
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let line = flat_index(group, groups, local, 256u);
  if (line >= params.lines) { return; }
  let base = base_of(line);
  var sum = T(0);
  for (var k = 0u; k < params.len;) {
    var part = T(0);
    let end = min(params.len, k + 256u);
    for (; k < end; k++) {
      part += x[index(base, k)];
      y[index(base, k)] = sum + part;
    }
    sum += part;
  }
}
`;

export const cumsumOp: Op<CumsumAttrs> = /* @__PURE__ */ defineOp<CumsumAttrs>({
  name: 'cumsum',
  shape([x]) {
    expectDType('cumsum', 'x', x.dtype, 'f32', 'i32');
    return [spec(x.shape, x.dtype)];
  },
  reference({ inputs: [x], outputs: [y], attrs: { dim, reverse } }) {
    const { outer, length, inner } = around(x.shape, dim);
    for (let line = 0; line < outer * inner; line++) {
      const base = Math.floor(line / inner) * length * inner + (line % inner);
      let sum = 0;
      for (let k = 0; k < length; k++) {
        const i = base + (reverse ? length - 1 - k : k) * inner;
        sum += x.data[i];
        y.data[i] = sum;
      }
    }
  },
  webgpu({ inputs: [x], outputs: [y], attrs: { dim, reverse } }) {
    const { outer, length, inner } = around(x.shape, dim);
    const lines = outer * inner;
    const alone = length <= 16 || (inner > 1 && lines >= 4096);
    const kernel = shader(`cumsum.${x.dtype}.${alone}`, () => ({
      reads: { x: x.dtype },
      writes: { y: x.dtype },
      params: { lines: 'u32', len: 'u32', inner: 'u32', reverse: 'u32' },
      code: `alias T = ${x.dtype};${FLAT_INDEX}${INDEX}${alone ? ALONE : code}`,
    }));
    const params = [lines, length, inner, reverse ? 1 : 0];
    return [{ shader: kernel, args: [x, y], params, grid: grid1d(lines, alone ? 256 : 1) }];
  },
  backward: ({ attrs, grads }) => [apply1(cumsumOp, [grads[0]!], { ...attrs, reverse: !attrs.reverse })],
});

/** Running sum along `dim`: f32 or i32 of any shape → the same. */
export function cumsum(x: Tensor, dim: number): Tensor {
  return apply1(cumsumOp, [x], { dim: normalizeDim('cumsum', dim, x.shape.length), reverse: false });
}
