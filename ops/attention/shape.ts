import { expectFinite, expectOneOf } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import type { Named } from '../../engine/op.ts';
import { expectRank, expectShape, sameShape, show } from '../common/shapes.ts';
import type { HeadLayout, RopeOptions } from './rope.ts';

export interface AttentionAttrs {
  readonly causal: boolean;
  readonly scale: number;
  readonly layout: HeadLayout;
}

/** Of a step of one token: how its query and key turn, and the scale of scores. */
export type StepAttrs = Required<Pick<RopeOptions, 'rotaryDim' | 'theta'>> & Pick<AttentionAttrs, 'scale'>;

/** The attention that a step is, of turned queries on the caches. */
export const attending = ({ scale }: StepAttrs): AttentionAttrs => ({ scale, causal: false, layout: 'blhd' });

export const INPUTS = ['q', 'k', 'v', 'mask?', 'keyCount?'] as const;

/** What attention reads, whatever stands for the tensors. */
export type AttentionInputs<T> = Named<(typeof INPUTS)[number], T>;

/** Two products for each query and key that it may see forward; five backward, which forms the scores anew. */
export function attentionFlops(operands: { readonly q: Spec; readonly k: Spec }, attrs: AttentionAttrs, products: 2 | 5): number {
  const { batch, heads, length, keys, dim } = attentionSizes(operands, attrs.layout);
  const hidden = attrs.causal ? (length * (length - 1)) / 2 : 0;
  return 2 * products * dim * batch * heads * (length * keys - hidden);
}

export type AttentionSizes = ReturnType<typeof attentionSizes>;

/** Sizes, and strides in elements: of heads and tokens in q and o, and in k and v. */
export function attentionSizes({ q, k }: { readonly q: Spec; readonly k: Spec }, layout: HeadLayout) {
  const [batch, , , dim] = q.shape;
  const of = ({ shape: [, first, second] }: Spec) =>
    layout === 'bhld' ? [first, second, second * dim, dim] : [second, first, dim, second * dim];
  const [heads, length, qHead, qToken] = of(q);
  const [kvHeads, keys, kHead, kToken] = of(k);
  return { batch, heads, kvHeads, length, keys, dim, qHead, qToken, kHead, kToken };
}

/** Elements between the counts of two rows of the batch: 0 where one count is for all. */
export function countStep(keyCount: Spec | undefined): number {
  return keyCount && keyCount.shape[0] > 1 ? 1 : 0;
}

/**
 * Elements of a mask from one row of the batch, one head and one query token to the next: 0 where it is the same for
 * all of them. A mask (B, S) is for all heads and tokens.
 */
export function maskSteps(
  mask: Spec | undefined,
  { keys }: AttentionSizes,
): [batch: number, head: number, token: number] {
  if (!mask) return [0, 0, 0];
  const [batch, heads, length] = mask.shape.length === 2 ? [mask.shape[0], 1, 1] : mask.shape;
  const step = (size: number, each: number) => (size > 1 ? each : 0);
  return [step(batch, heads * length * keys), step(heads, length * keys), step(length, keys)];
}

/** Largest head that the kernels' tiles hold. */
const MAX_DIM = 256;

/** @throws ShapeError or DTypeError naming the argument */
export function checkAttention(inputs: AttentionInputs<Spec>, attrs: AttentionAttrs): AttentionSizes {
  const { q, k, v, mask, keyCount } = inputs;
  expectOneOf('attention', 'causal', attrs.causal, true, false);
  expectFinite('attention', 'scale', attrs.scale);
  expectOneOf('attention', 'layout', attrs.layout, 'bhld', 'blhd');
  for (const [name, x] of Object.entries({ q, k, v })) {
    expectDType('attention', name, x.dtype, ...FLOATS);
    expectRank('attention', name, x, 4);
  }
  const s = attentionSizes(inputs, attrs.layout);
  expectShape('attention', 'v', v, k.shape);
  if (k.shape[0] !== s.batch || k.shape[3] !== s.dim || s.heads % s.kvHeads !== 0) {
    throw new ShapeError(
      `attention: k has shape ${show(k.shape)}, expected batch ${s.batch}, heads that divide ${s.heads} and last ` +
        `dimension ${s.dim}, as q ${show(q.shape)} has in layout ${attrs.layout}`,
    );
  }
  if (s.dim > MAX_DIM) {
    throw new ShapeError(`attention: q ${show(q.shape)} has heads of ${s.dim}, expected ≤ ${MAX_DIM}`);
  }
  if (mask) {
    expectDType('attention', 'mask', mask.dtype, 'i32', 'u32', 'bool', ...FLOATS);
    const whole = [s.batch, s.heads, s.length, s.keys];
    const fits = mask.shape.length === 4 && mask.shape.every((n, i) => n === whole[i] || (n === 1 && i < 3));
    if (!fits && !sameShape(mask.shape, [s.batch, s.keys])) {
      const want = `[${s.batch}, ${s.keys}], or ${show(whole)} with 1 in place of any but the last`;
      throw new ShapeError(`attention: mask has shape ${show(mask.shape)}, expected ${want}`);
    }
  }
  if (keyCount) {
    expectDType('attention', 'keyCount', keyCount.dtype, 'i32');
    expectShape('attention', 'keyCount', keyCount, [keyCount.shape[0] === 1 ? 1 : s.batch]);
  }
  return s;
}
