import { ArgumentError, ShapeError } from '../../engine/errors.ts';
import * as ops from '../../ops/index.ts';
import { type Case, finite, type Make, type Room, sized, WORD, whole } from './case.ts';

const kl = { kind: 'kl', temperature: 2, reduction: 'mean' } as const;
const classes = { M: 3, V: 5 };
const divergence = (t: Make, other: object) => ops.distillLoss(t(2, 3), t(2, 3), { ...kl, ...other });

export const loss: Room = {
  cross_entropy: {
    golden: ([logits, labels], { ignore_index }) => ops.crossEntropy(logits, labels, { ignoreIndex: ignore_index }),
    cases: [
      [classes, (t, { M, V }) => ops.crossEntropy(t(M, V), t.ids(V, M))],
      [
        { M: 9, V: 33 },
        (t, { M, V }) => {
          const [logits, labels] = [t.of((v) => 4 * v, M, V), t.ids(V, M)];
          return ops.crossEntropy(logits, labels, { labelSmoothing: 0.1, weight: ops.abs(t.fixed(V)) });
        },
      ],
    ],
    takes: {
      ignoreIndex: [whole(), (t, n) => ops.crossEntropy(t(2, 3), t.ids(3, 2), { ignoreIndex: n })],
      labelSmoothing: [finite(0, 1), (t, x) => ops.crossEntropy(t(2, 3), t.ids(3, 2), { labelSmoothing: x })],
      reduction: [WORD, (t, reduction) => ops.crossEntropy(t(2, 3), t.ids(3, 2), { reduction })],
    },
    refuses: [['labels of no rows', (t) => ops.crossEntropy(t(2, 3), t.ids(3, 3)), ShapeError, /labels has shape/]],
    timed: [['cross_entropy {M}×{V}', (t, { M, V }) => ops.crossEntropy(t(M, V), t.ids(V, M)), [1120, 70], [256, 51200]]],
  },
  distill_loss: {
    golden: ([student, teacher, weights], { kind, temperature, reduction }) =>
      ops.distillLoss(student, teacher, { kind, temperature, reduction }, weights),
    cases: [
      [classes, (t, { M, V }) => ops.distillLoss(t(M, V), t.fixed(M, V), kl)],
      [classes, (t, { M, V }) => ops.distillLoss(t(M, V), t.fixed(M, V), { ...kl, kind: 'l2' }, ops.abs(t.fixed(M)))],
      ...(['kl', 'reverse', 'jsd', 'ce', 'l2'] as const).map((kind): Case => [
        { B: 3, M: 5, V: 23 },
        (t, { B, M, V }) => {
          const [student, teacher] = [t.of((v) => 9 * v, B, M, V), ops.mulScalar(t.fixed(B, M, V), 9)];
          return (['batchmean', 'mean', 'sum'] as const).map((reduction) =>
            ops.distillLoss(student, teacher, { kind, reduction, temperature: 1.7 }),
          );
        },
        { at: sized('B M V', [260, 1, 70], [2, 1, 3000], [3, 2, 7], [700, 1, 70]), most: 5e-5 },
      ]),
    ],
    takes: {
      temperature: [finite(1e-300), (t, temperature) => divergence(t, { temperature })],
      kind: [WORD, (t, kind) => divergence(t, { kind })],
      reduction: [WORD, (t, reduction) => divergence(t, { reduction })],
    },
    refuses: [
      ['another shape', (t) => ops.distillLoss(t(2, 3), t(3, 2), kl), ShapeError, /teacher has shape \[3, 2\], expected \[2, 3\]/],
      ['weights of no rows', (t) => ops.distillLoss(t(2, 3), t(2, 3), kl, t(3, 2)), ShapeError, /weights has shape/],
      ['a temperature of 0', (t) => divergence(t, { temperature: 0 }), ArgumentError, /temperature is 0/],
    ],
    timed: [
      [
        'distill_loss kl {M}×{V}',
        (t, { M, V }) => ops.distillLoss(t(M, V), t.fixed(M, V), { kind: 'kl', temperature: 1, reduction: 'batchmean' }),
        [1120, 70],
      ],
    ],
  },
};
