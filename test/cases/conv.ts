import { apply } from '../../engine/apply.ts';
import { definedOps, type Op } from '../../engine/op.ts';
import { noGrad } from '../../engine/tape.ts';
import * as ops from '../../ops/index.ts';
import { type Room, ROOM, type Use, WORD, whole } from './case.ts';

/** An op that no module exports, and what it is told. */
const fold = () => definedOps().find(({ name }) => name === 'fold') as Op<object, 'y', 'x'>;
const windows = { image: [2, 3, 4, 5], kernel: [2, 2], stride: [2, 2], dilation: [1, 1] };

const conv2dWith = (options: (n: never) => object): Use => (t, n) => ops.conv2d(t(1, 1, 4, 4), t(1, 1, 2, 2), null, options(n));

export const conv: Room = {
  conv2d: {
    golden: ([x, w, b], { stride, padding }) => ops.conv2d(x, w, b ?? null, { stride, padding }),
    cases: [
      [
        { B: 2, C: 2, H: 4, O: 3, K: 2 },
        (t, { B, C, H, O, K }) => ops.conv2d(t(B, C, H, 4), t(O, C, K, 2), t(O), { stride: 2, padding: 0 }),
      ],
    ],
    takes: {
      stride: [whole(1), conv2dWith((stride) => ({ stride }))],
      padding: [whole(0, ROOM), conv2dWith((padding) => ({ padding }))],
    },
  },
  fold: { cases: [[{}, (t) => apply(fold(), { y: t(2, 4, 12) }, windows).x]] },
  causal_conv1d: {
    golden: ([x, w, bias], { activation }) => ops.causalConv1d(x, w, bias ?? null, { activation }),
    cases: [
      [
        { B: 2, C: 3, L: 4, P: 1 },
        (t, { B, C, L, P }) => ops.causalConv1d(t(B, C, L), t(C, P + 1), t(C), { activation: 'silu', initial: t(B, C, P) }),
        { at: [{ B: 2, C: 5, L: 9, P: 3 }, { B: 2, C: 2, L: 3, P: 0 }] },
      ],
      [
        { B: 2, C: 3, L: 4 },
        (t, { B, C, L }) =>
          ops.causalConv1d(t(B, L, C), t(C, 4), t(C), { activation: 'silu', layout: 'blc', initial: t(B, 3, C) }),
        { at: [{ B: 3, C: 33, L: 70 }, { B: 300, C: 2, L: 1 }] },
      ],
      [{ B: 1, C: 3, L: 2 }, (t, { B, C, L }) => ops.causalConv1d(t(B, L, C), t(C, 8), null, { layout: 'blc' })],
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
