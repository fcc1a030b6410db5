import { type DType, isBlock, WEIGHTS } from '../../engine/dtype.ts';
import { noGrad } from '../../engine/tape.ts';
import * as ops from '../../ops/index.ts';
import { allOf, type Case, type Room, sized } from './case.ts';

/** Every rest of the blocks that kernels work in. */
const SMALL = allOf({ M: [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17], N: [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17], K: [1, 3, 4, 9] });
/** Past every block of the C kernels: 256 of K, 512 of N, 96 rows of a transposed operand; and no columns at all. */
const LARGE = sized(
  'M N K',
  ...[[6, 8, 257], [103, 21, 300], [98, 520, 12], [5, 1030, 515], [1, 70, 333], [70, 1, 333], [197, 9, 4], [5, 9, 0]],
);

/** Past the ends of strips and blocks of weights in 16 bits, and of those that come in blocks of 64. */
const STRIPS = sized('M N K', [1, 7, 1037], [3, 5, 515], [1, 1030, 13], [9, 21, 300]);
const BLOCKS = sized('M N K', [1, 64, 4160], [2, 64, 576], [1, 576, 64], [5, 64, 320], [4, 576, 64]);

const weightsIn = (format: DType): Case => [
  { M: 3, K: 64, N: 128 },
  (t, { M, K, N }) => {
    const x = t.fixed(M, K);
    return noGrad(() => [
      ops.linear(x, t.stored(format, N, K), t.fixed(N), { addend: t.fixed(M, N) }),
      ops.matmul2d(x, t.stored(format, K, N)),
    ]);
  },
  { at: isBlock(format) ? BLOCKS : [...BLOCKS, ...STRIPS] },
];

export const gemm: Room = {
  matmul: {
    golden: ([a, b]) => ops.matmul(a, b),
    cases: [
      [{ A: 2, M: 3, K: 4, N: 5 }, (t, { A, M, K, N }) => ops.matmul(t(A, M, K), t(A, K, N))],
      [{ A: 3, M: 7, K: 5, N: 10 }, (t, { A, M, K, N }) => ops.matmul(t(A, M, K), t(K, N))],
      [{ A: 3, M: 7, K: 5, N: 10 }, (t, { A, M, K, N }) => ops.matmul(t(1, M, K), t(A, K, N)), { at: [{ A: 3, M: 2, K: 4100, N: 10 }] }],
      [
        { M: 3, K: 4, N: 5 },
        (t, { M, K, N }) => ops.matmul2d(t(K, M), t(N, K), { transA: true, transB: true }),
        { at: LARGE },
      ],
    ],
    timed: [['gemm {n}×{n}×{n}', (t, { n }) => ops.matmul2d(t(n, n), t(n, n)), [512], [2048], [4096]]],
  },
  linear: {
    golden: ([x, w, b]) => ops.linear(x, w, b ?? null),
    cases: [
      // With its gradients a product of every arrangement of its operands.
      [{ M: 3, K: 4, N: 5 }, (t, { M, K, N }) => ops.linear(t(M, K), t(N, K), t(N), { addend: t(M, N) }), { at: LARGE, wasmAt: SMALL }],
      ...WEIGHTS.map(weightsIn),
    ],
    timed: [
      [
        'linear {M}×{K}→{N}',
        (t, { M, K, N }) => ops.linear(t(M, K), t(N, K), t(N)),
        ...[[1536, 128, 512], [1536, 512, 128], [1, 128, 512], [1, 2560, 10240], [1024, 2560, 10240]],
      ],
      ['linear fwd+bwd {M}×{K}→{N}', (t, { M, K, N }) => ops.linear(t(M, K), t(N, K), t(N)), [1536, 128, 512]],
    ],
  },
  linears: {
    cases: [
      [
        { M: 2, K: 7, N: 3 },
        (t, { M, K, N }) =>
          noGrad(() => {
            const first = { weight: t.fixed(N, K), bias: t.fixed(N), activation: ops.silu };
            return ops.linears(t.fixed(M, K), [first, { weight: t.fixed(2 * N, K), bias: null }]);
          }),
      ],
    ],
  },
  linear_sum: {
    cases: [
      [
        { M: 2, K: 3, N: 7 },
        (t, { M, K, N }) =>
          noGrad(() => {
            const first = { weight: t.fixed(N, K), bias: t.fixed(N) };
            return ops.linearSum(t.fixed(M, N), [[t.fixed(M, K), first], [t.fixed(M, 2 * K), { weight: t.fixed(N, 2 * K), bias: null }]]);
          }),
      ],
    ],
  },
};
