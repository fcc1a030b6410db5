import { apply } from '../../engine/apply.ts';
import { expectDType } from '../../engine/dtype.ts';
import { defineOp } from '../../engine/op.ts';
import { noGrad } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { expectShape } from '../common/shapes.ts';

const incrementOp = /* @__PURE__ */ defineOp({
  name: 'increment',
  inputs: ['x', 'before?'],
  outputs: [],
  mutates: ['x', 'before'],
  shape({ x, before }, _: { readonly by: number }) {
    for (const [name, given] of Object.entries({ x, ...(before && { before }) })) {
      expectDType('increment_', name, given.dtype, 'i32');
      expectShape('increment_', name, given, x.shape);
    }
    return {};
  },
  reference({ x, before }, _, { by }) {
    before?.data.set(x.data);
    for (let i = 0; i < x.size; i++) x.data[i] += by;
  },
  webgpu({ x, before }, _, { by }, device) {
    const body = () => `${before ? 'store_before(i, load_x(i));' : ''}\n  store_x(i, load_x(i) + params.by);`;
    const key = `increment${before ? '.before' : ''}`;
    return [launchElements(x.size, { key, reads: {}, writes: { x, before }, params: { by: ['i32', by] }, body }, device)];
  },
});

/**
 * x += by in place: i32 of any shape, such as a position that is counted on the device. Has no gradient.
 * @param before takes what x was; i32 of x's shape
 */
export function increment_(x: Tensor, by = 1, before?: Tensor): void {
  noGrad(() => apply(incrementOp, { x, before }, { by }));
}
