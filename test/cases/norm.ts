import * as ops from '../../ops/index.ts';
import { finite, type Room, whole } from './case.ts';

const pair = { M: 5, N: 7 };

export const norm: Room = {
  layer_norm: {
    golden: ([x, weight, bias], { eps }) => ops.layerNorm(x, weight, bias, eps),
    cases: [[pair, (t, { M, N }) => ops.layerNorm(t(M, N), t(N), t(N))]],
    takes: { eps: [finite(0), (t, eps) => ops.layerNorm(t(2, 3), t(3), t(3), eps)] },
    timed: [['layer_norm {M}×{N}', (t, { M, N }) => ops.layerNorm(t(M, N), t(N), t(N)), [1536, 128], [8192, 2560]]],
  },
  rms_norm: {
    golden: ([x, weight], { eps }) => ops.rmsNorm(x, weight, eps),
    cases: [[pair, (t, { M, N }) => ops.rmsNorm(t(M, N), t(N))]],
    takes: { eps: [finite(0), (t, eps) => ops.rmsNorm(t(2, 3), t(3), eps)] },
  },
  rms_norm_gated: {
    golden: ([x, z, weight], { group_size, eps, norm_before_gate }) =>
      ops.rmsNormGated(x, z, weight, { groupSize: group_size, eps, normBeforeGate: norm_before_gate }),
    cases: [[pair, (t, { M, N }) => ops.rmsNormGated(t(M, N), t(M, N), t(N))]],
    takes: {
      groupSize: [whole(1, 3), (t, n) => ops.rmsNormGated(t(2, 3), t(2, 3), t(3), { groupSize: n })],
      eps: [finite(0), (t, eps) => ops.rmsNormGated(t(2, 3), t(2, 3), t(3), { eps })],
    },
    timed: [
      [
        'rms_norm_gated {M}×{N}',
        (t, { M, N }) => ops.rmsNormGated(t(M, N), t(M, N), t(N), { groupSize: 32 }),
        [1536, 128],
      ],
    ],
  },
};
