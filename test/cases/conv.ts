import { apply } from '../../engine/apply.ts';
import { ArgumentError, ShapeError } from '../../engine/errors.ts';
import { definedOps, type Op } from '../../engine/op.ts';
import { noGrad } from '../../engine/tape.ts';
import * as ops from '../../ops/index.ts';
import { type Case, type Make, type Room, ROOM, sized, type Use, WORD, whole } from './case.ts';

/** An op that no module exports, and what it is told. */
const fold = () => definedOps().find(({ name }) => name === 'fold') as Op<object, 'y', 'x'>;
const windows = { image: [2, 3, 4, 5], kernel: [2, 2], stride: [2, 2], dilation: [1, 1] };

/** Convolutions of images of 6 × 7 pixels in four channels to eight. */
export const CONVOLVED: readonly (ops.Conv2dOptions & { readonly kernel: readonly [number, number] })[] = [
  { kernel: [3, 2], stride: [2, 1], padding: [1, 0] },
  { kernel: [2, 3], dilation: [3, 2], padding: 2 },
  { kernel: [2, 2], stride: 2, dilation: [2, 1], groups: 2 },
  { kernel: [3, 3], padding: 1, groups: 4 },
  { kernel: [1, 3], padding: [0, 1] },
];
export const POOLED = [{ kernel: [2, 3], stride: [2, 3] }, { kernel: [3, 3], stride: 2, padding: 1 }] as const;

const convolved = ({ kernel, ...options }: (typeof CONVOLVED)[number], ...[C, H, W, O]: number[]): Case => [
  { B: 2, C, H, W, O },
  (t, { B, C, H, W, O }) => ops.conv2d(t(B, C, H, W), t(O, C / (options.groups ?? 1), ...kernel), t(O), options),
];
const sixes = (t: Make) => t(1, 4, 5, 5);
const conv2dOf = (options?: ops.Conv2dOptions) => (t: Make) => ops.conv2d(sixes(t), t(6, 2, 2, 2), null, options);

const conv2dWith = (options: (n: never) => object): Use => (t, n) => ops.conv2d(t(1, 1, 4, 4), t(1, 1, 2, 2), null, options(n));

/** Batches, channels, tokens and columns before them: one of each, past every block, and fewer tokens than columns. */
const CAUSAL = sized(
  'B C L P',
  ...[[1, 1, 1, 3], [2, 5, 7, 3], [2, 8, 2, 3], [1, 3, 9, 0], [2, 6, 5, 2], [1, 4, 11, 7]],
  ...[[2, 5, 9, 3], [2, 2, 3, 0], [3, 33, 70, 3], [300, 2, 1, 3], [1, 3, 2, 7]],
);

const causal = (layout: 'bcl' | 'blc', activation: 'silu' | null, bias: boolean, initial: boolean): Case => [
  { B: 2, C: 3, L: 4, P: 1 },
  (t, { B, C, L, P }) => {
    const tokens = (length: number) => t(...(layout === 'bcl' ? [B, C, length] : [B, length, C]));
    const options = { layout, activation, initial: initial ? tokens(P) : null };
    return ops.causalConv1d(tokens(L), t(C, P + 1), bias ? t(C) : null, options);
  },
  { at: CAUSAL },
];

export const conv: Room = {
  conv2d: {
    golden: ([x, w, b], { stride, padding }) => ops.conv2d(x, w, b ?? null, { stride, padding }),
    cases: [
      [
        { B: 2, C: 2, H: 4, O: 3, K: 2 },
        (t, { B, C, H, O, K }) => ops.conv2d(t(B, C, H, 4), t(O, C, K, 2), t(O), { stride: 2, padding: 0 }),
      ],
      ...CONVOLVED.map((options) => convolved(options, 4, 6, 7, 8)),
      convolved({ kernel: [2, 2], groups: 2, dilation: 2, padding: 1, stride: [2, 1] }, 4, 4, 3, 2),
    ],
    refuses: [
      ['other channels', conv2dOf(), ShapeError, /in 1 groups/],
      ['no groups', conv2dOf({ groups: 0 }), ArgumentError, /groups/],
      ['a kernel of no rows', (t) => ops.conv2d(t(1, 2, 4, 4), t(3, 2, 0, 2), null), ArgumentError, /kernel is 0/],
      ['too wide a window', conv2dOf({ groups: 2, dilation: [9, 1] }), ShapeError, /dilation 9,1/],
    ],
    takes: {
      stride: [whole(1), conv2dWith((stride) => ({ stride }))],
      padding: [whole(0, ROOM), conv2dWith((padding) => ({ padding }))],
    },
  },
  max_pool2d: {
    cases: POOLED.flatMap(({ kernel, ...options }): Case[] =>
      [[2, 4, 6, 7], [1, 2, 5, 4]].map(([B, C, H, W]) => [
        { B, C, H, W },
        (t, { B, C, H, W }) => [ops.maxPool2d, ops.avgPool2d].map((pool) => pool(t(B, C, H, W), kernel, options)),
      ]),
    ),
    refuses: [
      ['padding as wide as its window', (t) => ops.maxPool2d(sixes(t), 2, { padding: 2 }), ArgumentError, /padding 2/],
      ['no window', (t) => ops.avgPool2d(sixes(t), 0), ArgumentError, /kernel/],
    ],
  },
  fold: { cases: [[{}, (t) => apply(fold(), { y: t(2, 2, 2, 3, 2, 2) }, windows).x]] },
  causal_conv1d: {
    golden: ([x, w, bias], { activation }) => ops.causalConv1d(x, w, bias ?? null, { activation }),
    cases: (['bcl', 'blc'] as const).flatMap((layout) => [
      causal(layout, null, false, true),
      causal(layout, null, true, false),
      causal(layout, 'silu', true, false),
      causal(layout, 'silu', false, true),
      causal(layout, 'silu', true, true),
    ]),
    refuses: [
      ['other channels', (t) => ops.causalConv1d(t(2, 3, 4), t(2, 4), null), ShapeError, /w has shape \[2, 4\]/],
    ],
    takes: {
      layout: [WORD, (t, layout) => ops.causalConv1d(t(1, 2, 2), t(2, 2), null, { layout })],
      activation: [WORD, (t, activation) => ops.causalConv1d(t(1, 2, 2), t(2, 2), null, { activation })],
    },
    timed: [
      [
        'causal_conv1d+silu {B}×{L}×{C}',
        (t, { B, L, C }) => ops.causalConv1d(t(B, L, C), t(C, 4), t(C), { activation: 'silu', layout: 'blc' }),
        ...[[80, 14, 384], [1, 1024, 7680]],
      ],
    ],
  },
  causal_conv1d_step: {
    cases: [
      [
        { B: 2, C: 5 },
        (t, { B, C }) => {
          const columns = noGrad(() => ops.clone(t.fixed(B, 3, C)));
          const [x, w, bias] = [t.fixed(B, 1, C), t.fixed(C, 4), t.fixed(C)];
          return [ops.causalConv1dStep_(columns, x, w, bias, { activation: 'silu' }), columns];
        },
      ],
    ],
  },
};
