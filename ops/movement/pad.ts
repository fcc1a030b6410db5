import { expectWhole } from '../../engine/arguments.ts';
import { encoder, expectStorable, isFloat } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchFill } from '../elementwise/fill-kernel.ts';
import { show, strides } from '../common/shapes.ts';
import { copyOnHost, launchCopy, type StridedCopy } from './strided.ts';

interface Padding {
  /** Elements before x in each dimension of the whole; negative where x is cropped. */
  readonly before: readonly number[];
  readonly whole: readonly number[];
  readonly value: number;
}

/** The copy of the part of x that stays into the whole. */
function inside(shape: readonly number[], { before, whole }: Padding): StridedCopy {
  const skipped = shape.map((_, i) => Math.max(0, -before[i]));
  const filled = shape.map((_, i) => Math.max(0, before[i]));
  const size = shape.map((d, i) => Math.max(0, Math.min(d - skipped[i], whole[i] - filled[i])));
  const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, v, i) => sum + v * b[i], 0);
  const [from, to] = [strides(shape), strides(whole)];
  return { shape: size, from, fromOffset: dot(skipped, from), to, toOffset: dot(filled, to) };
}

const padOp: Op<Padding> = /* @__PURE__ */ defineOp<Padding>({
  name: 'pad',
  shape([x], { whole, value }) {
    expectStorable('pad', value, x.dtype);
    return [spec(whole, x.dtype)];
  },
  reference({ inputs: [x], outputs: [y], attrs }) {
    y.data.fill(isFloat(y.dtype) ? attrs.value : encoder(y.dtype)(attrs.value));
    copyOnHost(inside(x.shape, attrs), x, y);
  },
  webgpu({ inputs: [x], outputs: [y], attrs }) {
    const copy = inside(x.shape, attrs);
    return [launchFill(y, attrs.value), ...(copy.shape.includes(0) ? [] : [launchCopy(copy, x, y)])];
  },
  backward({ attrs, grads, inputSpecs }) {
    const shape = inputSpecs[0].shape;
    return [apply1(padOp, [grads[0]!], { before: attrs.before.map((b) => -b), whole: shape, value: 0 })];
  },
});

/**
 * Pads with a constant. `padding` is torch's: [before, after] of the last dimension first, then of the one before it.
 * Negative amounts crop.
 * @throws ArgumentError for amounts that are no whole numbers and a value that x's dtype cannot hold
 */
export function pad(x: Tensor, padding: readonly number[], value = 0): Tensor {
  const rank = x.shape.length;
  if (padding.length % 2 !== 0 || padding.length > 2 * rank) {
    throw new ShapeError(`pad: ${show(padding)} is no list of [before, after] pairs for at most ${rank} dimensions`);
  }
  for (const amount of padding) expectWhole('pad', 'an amount of padding', amount, -(2 ** 31));
  const at = (i: number, side: number) => padding[2 * (rank - 1 - i) + side] ?? 0;
  const before = x.shape.map((_, i) => at(i, 0));
  const whole = x.shape.map((d, i) => d + at(i, 0) + at(i, 1));
  if (whole.some((d) => d < 0)) throw new ShapeError(`pad: ${show(padding)} crops more than ${show(x.shape)} has`);
  return apply1(padOp, [x], { before, whole, value });
}
