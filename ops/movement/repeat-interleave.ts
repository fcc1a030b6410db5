import { expectWhole } from '../../engine/arguments.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { sum } from '../reduce/reduce.ts';
import { reshape } from './reshape.ts';
import { around, normalizeAxis } from '../common/shapes.ts';
import { copyOnHost, copyOnWasm, gatherCopy, launchCopy } from './strided.ts';

interface Repeat {
  readonly dim: number;
  readonly repeats: number;
}

function plan(shape: readonly number[], { dim, repeats }: Repeat) {
  const { outer, length, inner } = around(shape, dim);
  return gatherCopy([outer * length, repeats, inner], [inner, 0, 1]);
}

const repeatInterleaveOp = /* @__PURE__ */ defineOp<Repeat>({
  name: 'repeat_interleave',
  shape: ([x], { dim, repeats }) => [spec(x.shape.map((d, i) => (i === dim ? d * repeats : d)), x.dtype)],
  reference({ inputs: [x], outputs: [y], attrs }) {
    copyOnHost(plan(x.shape, attrs), x, y);
  },
  webgpu({ inputs: [x], outputs: [y], attrs }) {
    return y.size === 0 ? [] : [launchCopy(plan(x.shape, attrs), x, y)];
  },
  wasm: ({ inputs: [x], outputs: [y], attrs, k }) => copyOnWasm(k, plan(x.shape, attrs), x, y),
  backward({ attrs, grads, inputSpecs }) {
    const { outer, length, inner } = around(inputSpecs[0].shape, attrs.dim);
    const dy = reshape(grads[0]!, [outer * length, attrs.repeats, inner]);
    return [reshape(sum(dy, { dim: 1 }), inputSpecs[0].shape)];
  },
});

/** Repeats each entry of a dimension `repeats` times in a row: a b → a a b b. */
export function repeatInterleave(x: Tensor, repeats: number, dim: number): Tensor {
  expectWhole('repeat_interleave', 'repeats', repeats, 1);
  return apply1(repeatInterleaveOp, [x], { repeats, dim: normalizeAxis('repeat_interleave', dim, x.shape.length) });
}
