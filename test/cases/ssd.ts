import * as ops from '../../ops/index.ts';
import { type Make, type Room, type Run, sized, type Timed, whole } from './case.ts';

const scan = (t: Make, [B, L, H, P, G, N]: number[], options: Parameters<typeof ops.ssdScan>[1] = {}) => {
  const tokens = { x: t(B, L, H, P), dt: t(B, L, H), B: t(B, L, G, N), C: t(B, L, G, N) };
  return ops.ssdScan({ ...tokens, A_log: t(H), D: t(H), dt_bias: t(H) }, options);
};

/** As many groups as heads and a state of the heads' width: the mixers of MaTVLM. */
const timed = (what: string, ...at: number[][]): Timed => [
  `ssd_scan ${what} {B}×{L}×{H}×{P}`,
  (t, { B, L, H, P }) => {
    const heads = { A_log: t.fixed(H), D: t.fixed(H), dt_bias: t.fixed(H) };
    return ops.ssdScan({ x: t(B, L, H, P), dt: t(B, L, H), B: t(B, L, H, P), C: t(B, L, H, P), ...heads })[0];
  },
  ...at,
];

const AT = sized(
  'B L H P G N',
  ...[[1, 1, 1, 1, 1, 1], [2, 5, 2, 4, 2, 4], [1, 6, 4, 3, 2, 7], [2, 3, 3, 9, 1, 5], [1, 70, 2, 2, 1, 3], [1, 130, 1, 1, 1, 2]],
);
const onState: Run = (t, { B, L, H, P, G, N }) => scan(t, [B, L, H, P, G, N], { initialState: t(B, H, P, N) });

export const ssd: Room = {
  ssd_scan: {
    golden: ([x, dt, A_log, B, C, D, dt_bias], { chunk_size }) =>
      ops.ssdScan({ x, dt, A_log, B, C, D, dt_bias }, { chunkSize: chunk_size }),
    cases: [
      [{ B: 2, L: 3, H: 2, P: 3, G: 1, N: 4 }, (t, { B, L, H, P, G, N }) => scan(t, [B, L, H, P, G, N]), { at: AT, most: 5e-5 }],
      [{ B: 2, L: 1, H: 2, P: 3, G: 1, N: 4 }, onState, { at: AT, most: 5e-5 }],
    ],
    takes: { chunkSize: [whole(1), (t, chunkSize) => scan(t, [1, 2, 1, 2, 1, 2], { chunkSize })] },
    timed: [
      timed('prefix', [4, 66, 4, 32], [1, 1024, 32, 80]),
      timed('prefix fwd+bwd', [4, 66, 4, 32]),
      timed('questions', [80, 14, 4, 32]),
      timed('decode', [1, 1, 4, 32]),
    ],
  },
  ssd_step: {
    cases: [
      [
        { B: 2, H: 4, P: 3, N: 6 },
        (t, { B, H, P, N }) => {
          const state = ops.clone(t.fixed(B, H, P, N));
          const [x, dt, keys, queries] = [t.fixed(B, 1, 2, P), t.fixed(B, 1, H), t.fixed(B, 1, 1, N), t.fixed(B, 1, H, N)];
          const [A_log, D, dt_bias] = [t.fixed(H), t.fixed(H), t.fixed(H)];
          return [ops.ssdStep_(state, { x, dt, A_log, B: keys, C: queries, D, dt_bias }), state];
        },
      ],
    ],
  },
};
