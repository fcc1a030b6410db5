import { ShapeError } from '../../engine/errors.ts';
import * as ops from '../../ops/index.ts';
import { type Case, type Make, type Room, type Run, sized, type Timed, whole } from './case.ts';

type Decay = readonly [dt: (v: number) => number, A_log: (v: number) => number];
/** Decays of a token: from nearly none to nearly all, near a half, or so strong that A_log has next to no gradient. */
const ANY: Decay = [(v) => 3 * v - 1, (v) => 2 * v + 0.5];
const PLAIN: Decay = [(v) => v, (v) => v];
const STRONG: Decay = [(v) => 6 + v, (v) => 1 + v / 4];

const scan = (initial: boolean, [dt, A_log] = ANY): Run => (t, { B, L, H, P, G, N, chunk = 256 }) => {
  const tokens = { x: t(B, L, H, P), dt: t.of(dt, B, L, H), B: t(B, L, G, N), C: t(B, L, G, N) };
  const heads = { A_log: t.of(A_log, H), D: t(H), dt_bias: t(H) };
  return ops.ssdScan({ ...tokens, ...heads }, { chunkSize: chunk, initialState: initial ? t(B, H, P, N) : null });
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

const FEW = { B: 2, L: 3, H: 2, P: 3, G: 1, N: 4 };
const AT = sized(
  'B L H P G N chunk',
  ...[[1, 1, 1, 1, 1, 1, 9], [2, 5, 2, 4, 2, 4, 9], [1, 6, 4, 3, 2, 7, 9], [2, 3, 3, 9, 1, 5, 9]],
  ...[[3, 16, 4, 8, 4, 8, 256], [2, 37, 4, 12, 2, 8, 16], [1, 50, 2, 40, 1, 8, 32]],
  ...[[2, 1, 2, 3, 1, 4, 9], [2, 21, 2, 5, 1, 6, 256], [3, 1, 2, 8, 1, 20, 256], [70, 19, 4, 8, 4, 8, 8]],
  // Any chunks give the same.
  ...[1, 7, 16, 50, 64].map((chunk) => [1, 50, 2, 8, 1, 8, chunk]),
);
/** A scan with one of its inputs in another shape. */
const scanOf = (other: Readonly<Record<string, readonly number[]>>) => (t: Make) => {
  const tokens = { x: [1, 2, 4, 3], dt: [1, 2, 4], B: [1, 2, 2, 5], C: [1, 2, 2, 5] };
  const shapes = { ...tokens, A_log: [4], D: [4], dt_bias: [4], ...other };
  const given = Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, t(...shape)]));
  return ops.ssdScan(given as unknown as Parameters<typeof ops.ssdScan>[0]);
};
const LONG = sized('B L H P G N', [1, 70, 2, 2, 1, 3], [1, 130, 1, 1, 1, 2]);
const ALONE = sized('B L H P G N chunk', [2, 37, 2, 8, 1, 8, 16]);

export const ssd: Room = {
  ssd_scan: {
    golden: ([x, dt, A_log, B, C, D, dt_bias], { chunk_size }) =>
      ops.ssdScan({ x, dt, A_log, B, C, D, dt_bias }, { chunkSize: chunk_size }),
    cases: [
      ...[false, true].flatMap((initial): Case[] => [
        [FEW, scan(initial), { at: AT, most: 5e-5 }],
        [FEW, scan(initial, PLAIN), { at: LONG, most: 5e-5 }],
      ]),
      [{ B: 1, L: 130, H: 2, P: 5, G: 1, N: 6 }, scan(false, STRONG), { most: 2e-4 }],
      // A gradient of one result alone.
      ...[0, 1].map((only): Case => [FEW, (t, s) => [scan(false)(t, s)].flat()[only], { at: ALONE, most: 5e-5 }]),
    ],
    refuses: [
      ['steps of other heads', scanOf({ dt: [1, 2, 3] }), ShapeError, /dt has shape \[1, 2, 3\]/],
      ['a state of another width', scanOf({ C: [1, 2, 2, 6] }), ShapeError, /C has shape/],
    ],
    takes: { chunkSize: [whole(1), (t, chunk) => scan(false)(t, { B: 1, L: 2, H: 1, P: 2, G: 1, N: 2, chunk })] },
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
