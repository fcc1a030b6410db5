import { apply } from '../../engine/apply.ts';
import { FLAT_INDEX, grid1d } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, expectDType, FLOATS } from '../../engine/dtype.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import { around, normalizeDim } from '../common/shapes.ts';
import code from './cumsum.wgsl';
import { mapLines } from './map-lines.ts';
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
      store_y(index(base, k), sum + part);
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
    mapLines([x], y, dim, (line) => {
      let sum = 0;
      const add = (v: number) => (sum += v);
      return reverse ? line.reverse().map(add).reverse() : line.map(add);
    });
  },
  webgpu({ x }, { y }, { dim, reverse }, device) {
    const { outer, length, inner } = around(x.shape, dim);
    const lines = outer * inner;
    const { name, linesPerGroup, code } = VARIANTS.find(({ when }) => when({ lines, length, inner }))!;
    const { type } = accessOf(x.dtype, device.caps);
    const kernel = {
      ...{ key: `cumsum.${name}`, reads: { x }, writes: { y } },
      params: { lines: ['u32', lines], len: ['u32', length], inner: ['u32', inner], reverse: ['u32', reverse ? 1 : 0] },
      code: () => `alias T = ${type};${FLAT_INDEX}${INDEX}${code}`,
      grid: grid1d(lines, linesPerGroup),
    } as const;
    return [launchKernel(kernel, device)];
  },
  backward: ({ attrs, grads }) => ({ x: apply(cumsumOp, { x: grads.y! }, { ...attrs, reverse: !attrs.reverse }).y }),
});

/** Running sum along `dim`: floats, i32 or u32 of any shape → the same; integers wrap around. */
export function cumsum(x: Tensor, dim: number): Tensor {
  return apply(cumsumOp, { x }, { dim: normalizeDim('cumsum', dim, x.shape.length), reverse: false }).y;
}
