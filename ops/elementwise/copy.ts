import { apply } from '../../engine/apply.ts';
import { expectWhole } from '../../engine/arguments.ts';
import type { Launch } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { noGrad } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { expectAlike } from '../common/shapes.ts';
import { onWords } from './kernel.ts';

function launchCopy(x: Slot, y: Slot): Launch {
  return onWords({ name: 'copy', reads: { x }, result: y, value: 'x' });
}

const cloneOp = /* @__PURE__ */ defineOp({
  name: 'clone',
  inputs: ['x'],
  outputs: ['y'],
  shape: ({ x }) => ({ y: spec(x.shape, x.dtype) }),
  reference({ x }, { y }) {
    y.data.set(x.data);
  },
  webgpu: ({ x }, { y }) => [launchCopy(x, y)],
  asStored: { webgpu: ['y'] },
  backward: ({ grads }) => ({ x: grads.y }),
});

/** The same elements in a buffer of their own: any dtype and shape. */
export function clone(x: Tensor): Tensor {
  return apply(cloneOp, { x }, {}).y;
}

const copyOp = /* @__PURE__ */ defineOp({
  name: 'copy_',
  inputs: ['dst', 'src'],
  outputs: [],
  mutates: ['dst'],
  shape({ dst, src }) {
    expectAlike('copy_', 'src', src, dst);
    return {};
  },
  reference({ dst, src }) {
    dst.data.set(src.data);
  },
  webgpu: ({ dst, src }) => [launchCopy(src, dst)],
  asStored: { webgpu: ['dst'] },
});

/** Overwrites `dst` with `src`, of the same shape and dtype. Not recorded. */
export function copy_(dst: Tensor, src: Tensor): void {
  if (dst.storage !== src.storage) apply(copyOp, { dst, src }, {});
}

const incrementOp = /* @__PURE__ */ defineOp({
  name: 'increment',
  inputs: ['x', 'before?'],
  outputs: [],
  mutates: ['x', 'before'],
  shape({ x, before }, { by }: { readonly by: number }) {
    expectWhole('increment_', 'by', by, -(2 ** 31));
    expectDType('increment_', 'x', x.dtype, 'i32');
    if (before) expectAlike('increment_', 'before', before, x);
    return {};
  },
  reference({ x, before }, _, { by }) {
    before?.data.set(x.data);
    for (let i = 0; i < x.size; i++) x.data[i] += by;
  },
  webgpu({ x, before }, _, { by }, device) {
    return [launchElements(device, x.size, {
      key: 'increment',
      reads: {},
      writes: { x, before },
      params: { by: ['i32', by] },
      body: () => `let old = load_x(i); ${before ? 'store_before(i, old); ' : ''}store_x(i, old + params.by);`,
    })];
  },
});

/**
 * x += by in place: i32 of any shape, such as a position that is counted on the device. Has no gradient.
 * @param before takes what x was; i32 of x's shape
 */
export function increment_(x: Tensor, by = 1, before?: Tensor): void {
  noGrad(() => apply(incrementOp, { x, before }, { by }));
}
