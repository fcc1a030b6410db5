import { accessor } from '../../engine/access.ts';
import { apply } from '../../engine/apply.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, expectDType, FLOATS } from '../../engine/dtype.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { around, eachLine, normalizeDim } from '../common/shapes.ts';
import code from './cumsum.wgsl';
import type { Lines } from './variants.ts';

interface CumsumAttrs {
  readonly dim: number;
  /** From the end of each line. */
  readonly reverse: boolean;
}

/** For many or short lines: every thread sums one of its own. */
const LINE_A_THREAD = /* wgsl */ `
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
      part += load_x(index(base, k));
      y[index(base, k)] = sum + part;
    }
    sum += part;
  }
}
`;

const VARIANTS: readonly { name: string; when(sizes: Lines): boolean; linesPerGroup: number; code: string }[] = [
  {
    name: 'thread',
    when: ({ lines, length, inner }) => length <= 16 || (inner > 1 && lines >= 4096),
    linesPerGroup: 256,
    code: LINE_A_THREAD,
  },
  { name: 'workgroup', when: () => true, linesPerGroup: 1, code },
];

const INDEX = /* wgsl */ `
fn base_of(line: u32) -> u32 { return (line / params.inner) * params.len * params.inner + line % params.inner; }
fn index(base: u32, k: u32) -> u32 {
  return base + select(k, params.len - 1u - k, params.reverse == 1u) * params.inner;
}
`;

const cumsumOp: Op<CumsumAttrs, 'x', 'y'> = /* @__PURE__ */ defineOp({
  name: 'cumsum',
  inputs: ['x'],
  outputs: ['y'],
  asStored: { webgpu: ['x'] },
  shape({ x }, _: CumsumAttrs) {
    expectDType('cumsum', 'x', x.dtype, ...FLOATS, 'i32', 'u32');
    return { y: spec(x.shape, x.dtype) };
  },
  reference({ x }, { y }, { dim, reverse }) {
    eachLine(x.shape, dim, (base, step, length) => {
      let sum = 0;
      for (let k = 0; k < length; k++) {
        const i = base + (reverse ? length - 1 - k : k) * step;
        sum += x.data[i];
        y.data[i] = sum;
      }
    });
  },
  webgpu({ x }, { y }, { dim, reverse }, { caps }) {
    const { outer, length, inner } = around(x.shape, dim);
    const lines = outer * inner;
    const { name, linesPerGroup, code } = VARIANTS.find(({ when }) => when({ lines, length, inner }))!;
    const access = accessOf(x.dtype, caps);
    const kernel = shader(`cumsum.${access.key}.${name}`, () => ({
      reads: { x: accessor(access, false) },
      writes: { y: access.type },
      params: { lines: 'u32', len: 'u32', inner: 'u32', reverse: 'u32' },
      code: `alias T = ${access.type};${FLAT_INDEX}${INDEX}${code}`,
    }));
    return [{ shader: kernel, args: [x, y], params: [lines, length, inner, reverse ? 1 : 0], grid: grid1d(lines, linesPerGroup) }];
  },
  backward: ({ attrs, grads }) => ({ x: apply(cumsumOp, { x: grads.y! }, { ...attrs, reverse: !attrs.reverse }).y }),
});

/** Running sum along `dim`: floats, i32 or u32 of any shape → the same; integers wrap around. */
export function cumsum(x: Tensor, dim: number): Tensor {
  return apply(cumsumOp, { x }, { dim: normalizeDim('cumsum', dim, x.shape.length), reverse: false }).y;
}
