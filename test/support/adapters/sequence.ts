import { attention, causalConv1d, rope, ssdScan } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

/** Ops over the tokens of a sequence. */
export const sequenceAdapters: Adapters = {
  attention: ([q, k, v, mask], { causal }) => attention(q, k, v, { causal, mask }),
  rope: ([x], { rotary_dim, theta, offset }) => rope(x, { rotaryDim: rotary_dim, theta, offset }),
  causal_conv1d: ([x, w, bias], { activation }) => causalConv1d(x, w, bias ?? null, { activation }),
  ssd_scan: ([x, dt, A_log, B, C, D, dt_bias], { chunk_size }) =>
    ssdScan({ x, dt, A_log, B, C, D, dt_bias }, { chunkSize: chunk_size }),
};
