import { ShapeError } from '../../engine/errors.ts';
import * as ops from '../../ops/index.ts';
import { type Case, finite, type Room, sized, whole } from './case.ts';

const pair = { M: 5, N: 7 };
/** Few and many rows, narrow and wide. */
const AT = sized('M N', [4, 8], [2, 37], [15, 7], [1000, 20], [300, 128], [33, 130], [2, 2560], [3000, 70]);
const options = { at: AT, most: 3e-5 };

export const norm: Room = {
  layer_norm: {
    golden: ([x, weight, bias], { eps }) => ops.layerNorm(x, weight, bias, eps),
    cases: [
      [pair, (t, { M, N }) => ops.layerNorm(t(M, N), t(N), t(N)), options],
      [pair, (t, { M, N }) => ops.layerNorm(t(M, N), t.fixed(N), t.fixed(N)), options],
      [pair, (t, { M, N }) => ops.layerNorm(t.fixed(M, N), t(N), t(N)), options],
      [{ N: 5 }, (t, { N }) => ops.layerNorm(t(N), t(N), t(N))],
    ],
    takes: { eps: [finite(0), (t, eps) => ops.layerNorm(t(2, 3), t(3), t(3), eps)] },
    timed: [['layer_norm {M}×{N}', (t, { M, N }) => ops.layerNorm(t(M, N), t(N), t(N)), [1536, 128], [8192, 2560]]],
  },
  rms_norm: {
    golden: ([x, weight], { eps }) => ops.rmsNorm(x, weight, eps),
    cases: [
      [pair, (t, { M, N }) => ops.rmsNorm(t(M, N), t(N), 1e-3), options],
      [{ N: 5 }, (t, { N }) => ops.rmsNorm(t(N), t(N), 0.5), { at: [{ N: 1 }] }],
    ],
    takes: { eps: [finite(0), (t, eps) => ops.rmsNorm(t(2, 3), t(3), eps)] },
    refuses: [
      ['a short weight', (t) => ops.rmsNorm(t(2, 6), t(4)), ShapeError, /rms_norm: weight has shape \[4\], expected \[6\]/],
    ],
  },
  rms_norm_gated: {
    golden: ([x, z, weight], { group_size, eps, norm_before_gate }) =>
      ops.rmsNormGated(x, z, weight, { groupSize: group_size, eps, normBeforeGate: norm_before_gate }),
    cases: [
      [pair, (t, { M, N }) => ops.rmsNormGated(t(M, N), t(M, N), t(N))],
      ...[false, true].map((normBeforeGate): Case => [
        { M: 5, N: 8, G: 4 },
        (t, { M, N, G }) => ops.rmsNormGated(t(M, N), t.of((v) => 3 * v, M, N), t(N), { groupSize: G, normBeforeGate }),
        { at: sized('M N G', [15, 12, 4], [200, 80, 20], [70, 256, 128], [9, 33, 33], [2, 18, 6], [3, 3, 1], [2, 37, 37]), most: 3e-5 },
      ]),
    ],
    takes: {
      groupSize: [whole(1, 3), (t, n) => ops.rmsNormGated(t(2, 3), t(2, 3), t(3), { groupSize: n })],
      eps: [finite(0), (t, eps) => ops.rmsNormGated(t(2, 3), t(2, 3), t(3), { eps })],
    },
    refuses: [
      ['groups that do not divide', (t) => ops.rmsNormGated(t(2, 6), t(2, 6), t(6), { groupSize: 4 }), ShapeError, /of 4/],
    ],
    timed: [
      [
        'rms_norm_gated {M}×{N}',
        (t, { M, N }) => ops.rmsNormGated(t(M, N), t(M, N), t(N), { groupSize: 32 }),
        [1536, 128],
      ],
    ],
  },
};
