import { test } from 'uvu';
import { decode, type DType, encode, formatNumber, hostArrayType, hostItems, WEIGHTS } from '../engine/dtype.ts';
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

function check(m: Machine, [M, N, K]: number[], ta: boolean, tb: boolean, start: Start, format: DType = 'f32'): void {
  const label = `${m.kernels.variant} gemm ${M}×${N}×${K} ${ta ? 'T' : 'N'}${tb ? 'T' : 'N'} ${start} ${format}`;
  const stored = new (hostArrayType(format))(hostItems(format, K * N));
  encode(format, random(K * N, 2), stored);
  const B = Float32Array.from(decode(format, stored, K * N));
  const [A, C, bias] = [random(M * K, 1), random(M * N, 3), random(N, 4)];
  const { exports } = m.kernels;
  const c = start === 'C' ? m.inout(C) : m.out(M * N);
  const scratch = m.scratch(exports.gemm_scratch(M, N, K, +ta));
  const biasPointer = start === 'bias' ? m.put(bias) : 0;
  const words = new Int32Array(Math.ceil(stored.byteLength / 4));
  new Uint8Array(words.buffer).set(new Uint8Array(stored.buffer));
  const b = m.put(words);
  exports.gemm(m.put(A), b, formatNumber(format), c, biasPointer, M, N, K, +ta, +tb, +(start === 'C'), scratch);
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

test('B in every format, past the ends of strips and blocks', () => {
  const plain = [[1, 7, 1037], [3, 5, 515], [1, 1030, 13], [9, 21, 300]];
  const whole = [[1, 64, 4160], [2, 64, 576], [1, 576, 64], [5, 64, 320], [4, 576, 64]];
  for (const m of all) {
    for (const format of WEIGHTS) {
      for (const [i, size] of [...whole, ...(format === 'int8' || format === 'int4' ? [] : plain)].entries()) {
        for (const tb of [true, false]) check(m, size, false, tb, (['zero', 'bias', 'C'] as const)[i % 3], format);
      }
    }
  }
});

test('K = 0 leaves the bias', () => {
  for (const m of all) for (const M of [1, 5]) check(m, [M, 9, 0], false, true, 'bias');
});

test('batches, with a repeated operand', () => {
  for (const m of all) {
    for (const [batch, M, N, K, repeat] of [[3, 7, 10, 5, 0], [3, 7, 10, 5, 1], [3, 2, 10, 4100, 1]]) {
      for (const [ta, tb] of [[false, false], [false, true], [true, false]]) {
        const A = random(batch * M * K, 5);
        const B = random(batch * K * N, 6);
        const c = m.out(batch * M * N);
        const { exports } = m.kernels;
        const scratch = m.scratch(exports.gemm_scratch(M, N, K, +ta));
        const strideB = repeat ? 0 : K * N;
        const [a, b] = [m.put(A), m.put(B)];
        exports.gemm_batched(a, b, 0, c, batch, M * K, strideB, M * N, M, N, K, +ta, +tb, 0, scratch);
        const want = Array.from({ length: batch }, (_, i) =>
          product(A.subarray(i * M * K), B.subarray(i * strideB), [M, N, K], ta, tb),
        ).flat();
        close(`batched ${ta} ${tb} ${repeat}`, m.read(c, batch * M * N), want, 1e-5, 2e-6 * Math.sqrt(K + 1));
        m.finish('batched');
      }
    }
  }
});

test.run();
