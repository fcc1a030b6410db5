import { layerNorm, rmsNorm, rmsNormGated } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const normAdapters: Adapters = {
  layer_norm: ([x, weight, bias], { eps }) => layerNorm(x, weight, bias, eps),
  rms_norm: ([x, weight], { eps }) => rmsNorm(x, weight, eps),
  rms_norm_gated: ([x, z, weight], { group_size, eps, norm_before_gate }) =>
    rmsNormGated(x, z, weight, { groupSize: group_size, eps, normBeforeGate: norm_before_gate }),
};
