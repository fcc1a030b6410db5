import { apply } from '../../engine/apply.ts';
import { accessOf, expectDType } from '../../engine/dtype.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import { around, normalizeDim } from '../common/shapes.ts';
import { NUMBERS } from './define.ts';
import { mapLines } from './map-lines.ts';

interface CumsumAttrs {
  readonly dim: number;
  /** From the end of each line. */
  readonly reverse: boolean;
}

const WORKGROUP = 256;

/** A workgroup takes a line, LANES = 256 elements at a time (Hillis and Steele), or each of its threads one. */
const CODE = /* wgsl */ `
var<workgroup> sums: array<T, LANES>;
fn kernel(group: u32, local: u32) {
  let line = (group * WG + local) / LANES;
  let first = (line / params.inner) * params.len * params.inner + line % params.inner;
  var carry = T(0);
  var part = T(0);  // of the last few blocks: one sum of all would lose the digits of small blocks
  for (var start = 0u; start < params.len; start += LANES) {
    let k = start + local % LANES;
    let here = line < params.lines && k < params.len;
    let place = first + select(k, params.len - 1u - k, params.reverse == 1u) * params.inner;
    var sum = T(0);
    if (here) { sum = load_x(place); }
    var total = sum;
    if (LANES > 1u) {
      sums[local % LANES] = sum;
      workgroupBarrier();
      for (var step = 1u; step < LANES; step *= 2u) {
        var before = T(0);
        if (local >= step) { before = sums[(local - step) % LANES]; }
        workgroupBarrier();
        sums[local % LANES] += before;
        workgroupBarrier();
      }
      sum = sums[local % LANES];
      total = sums[LANES - 1u];
      workgroupBarrier();
    }
    if (here) { store_y(place, carry + (part + sum)); }
    part += total;
    if (start / LANES % 64u == 63u) {
      carry += part;
      part = T(0);
    }
  }
}
`;

const cumsumOp: Op<CumsumAttrs, 'x', 'y'> = /* @__PURE__ */ defineOp({
  name: 'cumsum',
  inputs: ['x'],
  outputs: ['y'],
  shape({ x }, _: CumsumAttrs) {
    expectDType('cumsum', 'x', x.dtype, ...NUMBERS);
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
    const lanes = length <= 16 || (inner > 1 && lines >= 4096) ? 1 : WORKGROUP;
    return [launchKernel(device, {
      key: `cumsum.${lanes}`,
      reads: { x },
      writes: { y },
      workgroup: WORKGROUP,
      params: { lines, len: length, inner, reverse: Number(reverse) },
      constants: { LANES: lanes },
      code: () => `alias T = ${accessOf(x.dtype, device.caps).type};${CODE}`,
      groups: Math.ceil((lines * lanes) / WORKGROUP),
    })];
  },
  backward: ({ attrs, grads }) => ({ x: apply(cumsumOp, { x: grads.y! }, { ...attrs, reverse: !attrs.reverse }).y }),
});

/** Running sum along `dim`: floats, i32 or u32 of any shape → the same; integers wrap around. */
export function cumsum(x: Tensor, dim: number): Tensor {
  return apply(cumsumOp, { x }, { dim: normalizeDim('cumsum', dim, x.shape.length), reverse: false }).y;
}
