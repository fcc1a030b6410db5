import { test } from 'uvu';
import { close, type Machine, machines, random } from './wasm-machine.ts';

/** op(A)·op(B) in f64. */
function product(A: Float32Array, B: Float32Array, [M, N, K]: number[], ta: boolean, tb: boolean): number[] {
  return Array.from({ length: M * N }, (_, at) => {
    const [m, n] = [Math.floor(at / N), at % N];
    let sum = 0;
    for (let k = 0; k < K; k++) sum += A[ta ? k * M + m : m * K + k] * B[tb ? n * K + k : k * N + n];
    return sum;
  });
}

type Start = 'zero' | 'bias' | 'C';

function check(m: Machine, [M, N, K]: number[], ta: boolean, tb: boolean, start: Start): void {
  const label = `${m.kernels.variant} gemm ${M}×${N}×${K} ${ta ? 'T' : 'N'}${tb ? 'T' : 'N'} ${start}`;
  const [A, B, C, bias] = [random(M * K, 1), random(K * N, 2), random(M * N, 3), random(N, 4)];
  const { exports } = m.kernels;
  const c = start === 'C' ? m.inout(C) : m.out(M * N);
  const scratch = m.scratch(exports.gemm_scratch(M, N, K, +ta));
  const biasPointer = start === 'bias' ? m.put(bias) : 0;
  exports.gemm(m.put(A), m.put(B), c, biasPointer, M, N, K, +ta, +tb, +(start === 'C'), scratch);
  const added = (i: number): number => (start === 'C' ? C[i] : start === 'bias' ? bias[i % N] : 0);
  const want = product(A, B, [M, N, K], ta, tb).map((v, i) => v + added(i));
  close(label, m.read(c, M * N), want, 1e-5, 2e-6 * Math.sqrt(K + 1) + 1e-6);
  m.finish(label);
}

const all = await machines();
const SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17];

test('every small size, in every arrangement', () => {
  for (const m of all) {
    for (const M of SIZES) {
      for (const N of SIZES) {
        for (const K of [1, 3, 4, 9]) {
          for (const [ta, tb] of [[false, true], [false, false], [true, false], [true, true]]) {
            check(m, [M, N, K], ta, tb, (['zero', 'bias', 'C'] as const)[(M + N + K) % 3]);
          }
        }
      }
    }
  }
});

test('sizes past every block: K 256, N 512, 96 rows of a transposed A', () => {
  const sizes = [[6, 8, 257], [103, 21, 300], [98, 520, 12], [5, 1030, 515], [1, 70, 333], [70, 1, 333], [197, 9, 4]];
  for (const m of all) {
    for (const [M, N, K] of sizes) {
      for (const [ta, tb] of [[false, true], [false, false], [true, false], [true, true]]) {
        for (const start of ['zero', 'bias', 'C'] as const) check(m, [M, N, K], ta, tb, start);
      }
    }
  }
});

test('K = 0 leaves the bias', () => {
  for (const m of all) for (const M of [1, 5]) check(m, [M, 9, 0], false, true, 'bias');
});

test('batches, with a repeated operand', () => {
  for (const m of all) {
    const [batch, M, N, K] = [3, 7, 10, 5];
    for (const repeat of [false, true]) {
      for (const [ta, tb] of [[false, false], [false, true], [true, false]]) {
        const A = random(batch * M * K, 5);
        const B = random(batch * K * N, 6);
        const c = m.out(batch * M * N);
        const { exports } = m.kernels;
        const scratch = m.scratch(exports.gemm_scratch(batch * M, N, K, +ta));
        const strideB = repeat ? 0 : K * N;
        const [a, b] = [m.put(A), m.put(B)];
        exports.gemm_batched(a, b, c, batch, M * K, strideB, M * N, M, N, K, +ta, +tb, 0, scratch);
        const want = Array.from({ length: batch }, (_, i) =>
          product(A.subarray(i * M * K), B.subarray(i * strideB), [M, N, K], ta, tb),
        ).flat();
        close(`batched ${ta} ${tb} ${repeat}`, m.read(c, batch * M * N), want, 1e-5, 1e-5);
        m.finish('batched');
      }
    }
  }
});

test.run();
