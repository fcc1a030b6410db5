import { attention, causalConv1d, rope } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

/** Ops over the tokens of a sequence. */
export const sequenceAdapters: Adapters = {
  attention: ([q, k, v, mask], { causal }) => attention(q, k, v, { causal }, mask),
  rope: ([x], { rotary_dim, theta, offset }) => rope(x, { rotaryDim: rotary_dim, theta, offset }),
  causal_conv1d: ([x, w, bias], { activation }) => causalConv1d(x, w, bias ?? null, { activation }),
};
