import { ArgumentError, ShapeError } from '../../engine/errors.ts';
import type { Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { type Case, finite, type Make, type Room, sized, type Timed, WORD, whole } from './case.ts';

const heads = (t: Make) => t(1, 2, 4, 4);

/** Large and small positions, on the device in part, in heads that turn whole or in part. */
const turned = (layout: ops.HeadLayout): Case => [
  { B: 2, H: 2, L: 3, D: 4, R: 4, P: 2 },
  (t, { B, H, L, D, R, P }) => {
    const start = t.values([P - 2], [1], 'i32');
    return ops.rope(t(B, ...(layout === 'bhld' ? [H, L] : [L, H]), D), { rotaryDim: R, offset: 2, layout, start });
  },
  {
    at: sized(
      'B H L D R P',
      ...[[3, 1, 5, 20, 8, 3], [2, 4, 3, 7, 6, 70000], [1, 1, 4, 5, 2, 0], [1, 1, 99, 4, 4, 7]],
      ...[0, 2047, 65533, 1_000_003].map((position) => [2, 3, 5, 20, 16, position]),
    ),
    most: 1e-6,
  },
];
const attend = (t: Make, options: ops.AttentionOptions) => ops.attention(heads(t), heads(t), heads(t), options);
const pairOf = (t: Make) => [t(1, 2, 2, 4), t(1, 2, 2, 4)] as const;
const masked = (t: Make, mask: Tensor) => ops.attention(t(1, 2, 2, 4), ...pairOf(t), { mask });
const SHORT_MASK = /mask has shape \[1, 1\], expected \[1, 2\], or \[1, 2, 2, 2\] with 1/;

/** Grouped heads, fewer queries than keys and more, odd and larger sizes; past the blocks of 192 queries and keys. */
const SMALL = sized(
  'B H KV L S D',
  ...[[1, 1, 1, 1, 1, 1], [2, 4, 2, 5, 5, 8], [1, 4, 4, 1, 9, 6], [1, 2, 1, 3, 7, 5], [1, 2, 2, 6, 4, 3]],
  ...[[3, 2, 2, 16, 43, 8], [2, 6, 2, 21, 37, 8], [2, 4, 2, 40, 40, 8], [1, 1, 1, 9, 5, 8], [2, 2, 1, 7, 37, 36]],
  ...[[2, 4, 2, 21, 40, 36], [2, 2, 1, 19, 19, 6], [1, 2, 2, 19, 21, 35]],
);
const LONG = sized('B H KV L S D', [1, 2, 1, 200, 200, 7], [1, 2, 1, 3, 500, 7], [1, 2, 1, 390, 195, 7], [1, 1, 1, 210, 230, 5]);

const plain = (causal: boolean, layout: ops.HeadLayout, masked: boolean): Case => [
  { B: 2, H: 2, KV: 1, L: 5, S: 6, D: 4 },
  (t, { B, H, KV, L, S, D }) => {
    const shape = (heads: number, tokens: number) => (layout === 'bhld' ? [B, heads, tokens, D] : [B, tokens, heads, D]);
    // The first sequences hide one key in three, which may be all that a query would see; the last hides all.
    const open = Int32Array.from({ length: B * S }, (_, i) => (i < (B - 1) * S && i % 3 !== 1 ? 1 : 0));
    const inputs = [t(...shape(H, L)), t(...shape(KV, S)), t(...shape(KV, S))] as const;
    return ops.attention(...inputs, { causal, layout, mask: masked ? t.values(open, [B, S], 'i32') : undefined });
  },
  { at: [...SMALL, ...LONG], most: 2e-5, rounds: masked ? 2 : 1 },
];

const timed = (what: string, ...at: number[][]): Timed => [
  `attention ${what} {B}×{H}×{L}/{S}×{D}`,
  (t, { B, H, L, S, D }) => ops.attention(t(B, L, H, D), t(B, S, H, D), t(B, S, H, D), { causal: true, layout: 'blhd' }),
  ...at,
];

export const attention: Room = {
  attention: {
    golden: ([q, k, v, mask], { causal }) => ops.attention(q, k, v, { causal, mask }),
    cases: [
      [
        { B: 2, H: 2, L: 2, S: 3, D: 4 },
        (t, { B, H, L, S, D }) => ops.attention(t(B, H, L, D), t(B, H, S, D), t(B, H, S, D), { causal: true }),
      ],
      plain(false, 'bhld', false),
      plain(true, 'bhld', true),
      plain(true, 'blhd', false),
      plain(false, 'blhd', true),
    ],
    takes: {
      scale: [finite(), (t, scale) => attend(t, { scale })],
      causal: [WORD, (t, causal) => attend(t, { causal })],
      layout: [WORD, (t, layout) => attend(t, { layout })],
    },
    refuses: [
      ['a number of keys', (t) => attend(t, { keyCount: -1 as never }), ArgumentError, /attention: -1 was/],
      ['other heads', (t) => ops.attention(t(1, 3, 2, 4), ...pairOf(t)), ShapeError, /k has shape \[1, 2, 2, 4\]/],
      ['values of others', (t) => ops.attention(...pairOf(t), t(1, 2, 3, 4)), ShapeError, /v has shape/],
      ['a short mask', (t) => masked(t, t.values([1], [1, 1], 'i32')), ShapeError, SHORT_MASK],
      ['a mask of one key', (t) => masked(t, t(1, 2, 2, 1)), ShapeError, /mask/],
      [
        'key counts of no row',
        (t) => ops.attention(t(1, 2, 2, 4), ...pairOf(t), { keyCount: t.values([1, 2], [2], 'i32') }),
        ...[ShapeError, /keyCount has shape \[2\]/] as const,
      ],
    ],
    timed: [
      timed('prefix', [4, 4, 66, 66, 32], [1, 32, 1024, 1024, 80]),
      timed('prefix fwd+bwd', [4, 4, 66, 66, 32]),
      timed('questions', [80, 4, 14, 80, 32]),
      timed('decode', [1, 4, 1, 80, 32], [1, 32, 1, 1024, 80]),
    ],
  },
  rope: {
    golden: ([x], { rotary_dim, theta, offset }) => ops.rope(x, { rotaryDim: rotary_dim, theta, offset }),
    cases: [
      [{ B: 2, H: 2, L: 3, D: 4 }, (t, { B, H, L, D }) => ops.rope(t(B, H, L, D))],
      ...(['bhld', 'blhd'] as const).map(turned),
    ],
    refuses: [['more than a head to turn', (t) => ops.rope(t(2, 3, 4), { rotaryDim: 6 }), ShapeError, /rotaryDim 6/]],
    takes: {
      rotaryDim: [whole(2, 4), (t, n) => ops.rope(heads(t), { rotaryDim: n })],
      offset: [whole(0, 2 ** 32 - 1), (t, n) => ops.rope(heads(t), { offset: n })],
      theta: [finite(1e-300), (t, theta) => ops.rope(heads(t), { theta })],
      layout: [WORD, (t, layout) => ops.rope(heads(t), { layout })],
    },
    timed: [
      [
        'rope {B}×{L}×{H}×{D}',
        (t, { B, L, H, D }) => ops.rope(t(B, L, H, D), { rotaryDim: D / 2, theta: 10_000, offset: 0, layout: 'blhd' }),
        [80, 14, 4, 32],
      ],
    ],
  },
  attention_step: {
    cases: [
      [
        {},
        (t) => {
          const [q, k, v] = [t.fixed(2, 1, 4, 10), t.fixed(2, 1, 2, 10), t.fixed(2, 1, 2, 10)];
          const [keys, values] = [0, 1].map(() => ops.clone(t.fixed(2, 7, 2, 10)));
          const [first, end] = [3, 4].map((n) => t.values([n], [1], 'i32'));
          return [ops.attentionStep_({ q, k, v, keys, values, first, end }, { rotaryDim: 4, theta: 100 }), keys, values];
        },
      ],
    ],
  },
};
