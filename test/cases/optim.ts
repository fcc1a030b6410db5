import { ArgumentError } from '../../engine/errors.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { finite, type Make, type Room, whole } from './case.ts';

const pair = { M: 5, N: 7 };
const RATES = { index: 0, betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1 } as const;

/** One step of AdamW from ones, with something else among its operands and numbers. */
function step(t: Make, other: object): void {
  const [param, grad, m, v] = [1, 1, 0, 0].map((value) => t.values([value, value]));
  const lr = t.values([0.1], []);
  const count = t.values([0], []);
  const { stats, before } = ops.gradNorm([grad], 0, { counts: [count] });
  ops.adamwStep({ param, grad, m, v, step: count, before: before!, stats, lr, ...RATES, ...other });
}

/** A token chosen with these options. */
function chosen(t: Make, options: object): Tensor {
  const [token, seen] = [t.values([0], [1, 1], 'i32'), t.values([0, 0, 0], [1, 3], 'u32')].map((x) => ops.clone(x));
  const [draws, position] = [t.values([0.5], [1, 1]), t.values([0], [1], 'i32')];
  ops.chooseToken_(token, { logits: t.fixed(1, 3), seen, draws, position }, options);
  return token;
}

export const optim: Room = {
  grad_norm: {
    cases: [[pair, (t, { M, N }) => ops.gradNorm([t.fixed(M, N), t.fixed(N)], 0.5).stats]],
    takes: { maxNorm: [finite(0), (t, most) => ops.gradNorm([t(3)], most).stats] },
  },
  adamw: {
    cases: [
      [
        pair,
        (t, { M, N }) => {
          const [grad, param, m] = [t.fixed(M, N), ops.clone(t.fixed(M, N)), ops.clone(t.fixed(M, N))];
          const v = ops.square(t.fixed(M, N));
          const count = ops.clone(t.values([5], []));
          const before = t.values([0, 5]);
          const given = { stats: t.values([2, 0.5, 1]), lr: t.values([1e-2], []) };
          ops.adamwStep({ param, grad, m, v, step: count, before, ...given, ...RATES, index: 1 });
          return [param, m, v, count];
        },
      ],
    ],
    takes: {
      eps: [finite(0), (t, eps) => step(t, { eps })],
      weightDecay: [finite(0), (t, weightDecay) => step(t, { weightDecay })],
      'first beta': [finite(0, 1 - Number.EPSILON), (t, beta) => step(t, { betas: [beta, 0.9] })],
      'second beta': [finite(0, 1 - Number.EPSILON), (t, beta) => step(t, { betas: [0.9, beta] })],
    },
    refuses: [
      [
        'one tensor as parameter and gradient',
        (t) => {
          const shared = fromData(t.backend, [1, 1], [2]);
          step(t, { param: shared, grad: shared });
        },
        ArgumentError,
        /adamw: writes to .*clone/,
      ],
    ],
    timed: [
      [
        'adamw {M}×{N}',
        (t, { M, N }) => {
          const [param, grad, m, v] = [t.fixed(M, N), t.fixed(M, N), t.fixed(M, N), t.fixed(M, N)];
          const given = { step: t.values([0], []), lr: t.values([1e-6], []), before: t.values([0]), stats: t.values([1, 1, 1]) };
          ops.adamwStep({ param, grad, m, v, ...given, ...RATES });
          return [];
        },
        ...[[128, 512], [2560, 10240]],
      ],
    ],
  },
  choose_token: {
    cases: [
      [
        {},
        (t) => {
          const [logits, draws] = [t.fixed(5, 7), ops.abs(t.fixed(5, 2))];
          const [token, position] = [ops.clone(t.values([0, 0, 0, 0, 0], [5, 1], 'i32')), t.values([2], [1], 'i32')];
          const seen = ops.fill(logits.backend, [5, 7], 0, 'u32');
          const chance = { temperature: 1, topK: 4, topP: 0.9, repetitionPenalty: 2 };
          ops.chooseToken_(token, { logits, seen, draws, position }, chance);
          return [token, seen];
        },
      ],
    ],
    takes: {
      temperature: [finite(0), (t, temperature) => chosen(t, { temperature })],
      topK: [whole(0), (t, topK) => chosen(t, { topK })],
      topP: [finite(Number.MIN_VALUE, 1), (t, topP) => chosen(t, { topP })],
      repetitionPenalty: [finite(0.01, 100), (t, repetitionPenalty) => chosen(t, { repetitionPenalty })],
    },
  },
};
