import * as assert from 'uvu/assert';
import type { Backend } from '../../engine/backend.ts';
import { elements } from '../../engine/backend.ts';
import { decode, type DType, FLOATS, isBlock, WEIGHTS } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { noGrad } from '../../engine/tape.ts';
import { add, backward, embedding, gelu, geluTanh, linear, matmul, relu, silu, sum } from '../../ops/index.ts';
import { random } from '../support/agree.ts';
import { relativeError } from '../support/golden-types.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends } = await suiteOnBackends('products of weights in every format');

/** Relative rounding of what a dtype stores; of f32 after sums of some hundred terms. */
const ROUNDING: Partial<Record<DType, number>> = { f32: 1e-6, f16: 2 ** -11, bf16: 2 ** -8 };

/** A matrix in f64, and how to index it. */
interface Matrix {
  readonly rows: number;
  readonly columns: number;
  at(i: number, j: number): number;
}

const transposed = ({ rows, columns, at }: Matrix): Matrix => ({ rows: columns, columns: rows, at: (i, j) => at(j, i) });

/** The matrix that a tensor stores, `skip` elements in. */
async function stored(t: Tensor, [rows, columns]: readonly number[] = t.shape, skip = 0): Promise<Matrix> {
  const values = decode(t.dtype, await t.data(), t.size);
  return { rows, columns, at: (i, j) => values[skip + i * columns + j] };
}

/** Fails unless a tensor holds a·b + added, beside what rounding does to terms of that size. */
async function expectProduct(label: string, y: Tensor, a: Matrix, b: Matrix, added?: Matrix, skip = 0): Promise<void> {
  const got = decode(y.dtype, await y.data(), y.size);
  for (let m = 0; m < a.rows; m++) {
    for (let n = 0; n < b.columns; n++) {
      let [sum, size] = [added?.at(m, n) ?? 0, 1];
      for (let k = 0; k < a.columns; k++) {
        sum += a.at(m, k) * b.at(k, n);
        size += Math.abs(a.at(m, k) * b.at(k, n));
      }
      const error = Math.abs(got[skip + m * b.columns + n] - sum);
      const most = ROUNDING[y.dtype]! * Math.abs(sum) + ROUNDING.f32! * size;
      assert.ok(error <= most, `${label}: [${m}, ${n}] is ${got[skip + m * b.columns + n]}, expected ${sum}`);
    }
  }
}

function tensor(backend: Backend, seed: number, shape: readonly number[], dtype: DType = 'f32'): Tensor {
  const t = fromData(backend, random(elements(shape), seed), shape, dtype);
  t.requiresGrad = !isBlock(dtype);
  return t;
}

/** Calls with each backend and format; `step` is what the last dimension of a tensor in that format must divide by. */
async function each(body: (backend: Backend, format: DType, step: number) => Promise<void> | void): Promise<void> {
  for (const backend of backends) {
    for (const format of WEIGHTS) await body(backend, format, isBlock(format) ? 64 : 1);
  }
}

/** x's dtype, the weight's formats, and sizes; those that blocks of 64 do not divide are for the others. */
const LINEAR: [dtype: DType, formats: readonly DType[], sizes: [rows: number, inner: number, out: number][]][] = [
  ['f32', WEIGHTS, [[1, 64, 72], [40, 320, 68]]],
  ['f32', FLOATS, [[3, 35, 33]]],
  ['f16', ['f16', 'f32', 'int4'], [[9, 320, 68]]],
  ['bf16', ['bf16', 'int8'], [[9, 128, 33]]],
];

for (const [dtype, formats, sizes] of LINEAR) {
  test(`linear and its gradients: x in ${dtype}, weights in ${formats.join(', ')}, sizes ${sizes.join('; ')}`, async () => {
    for (const backend of backends) {
      for (const format of formats) {
        for (const [rows, inner, out] of sizes) {
          const label = `${backend.kind} ${dtype} ${rows}×${inner} by ${format} of ${out}`;
          const x = tensor(backend, 1, [rows, inner], dtype);
          const w = tensor(backend, 2, [out, inner], format);
          const b = tensor(backend, 3, [out], dtype);
          const dy = tensor(backend, 4, [rows, out], dtype);
          const addend = tensor(backend, 5, [rows, out], dtype === 'f32' ? 'bf16' : dtype);
          const y = linear(x, w, b, { addend });
          assert.is(y.dtype, dtype, label);
          const [X, W, DY] = [await stored(x), await stored(w), await stored(dy)];
          const [B, A] = [await stored(b, [1, out]), await stored(addend)];
          await expectProduct(label, y, X, transposed(W), { ...A, at: (m, n) => B.at(0, n) + A.at(m, n) });
          backward(y, dy);
          await expectProduct(`${label}: dx`, x.grad!, DY, W);
          assert.is(w.grad?.dtype, isBlock(format) ? undefined : format, label);
          if (w.grad) await expectProduct(`${label}: dw`, w.grad, transposed(DY), X);
          await expectProduct(`${label}: db`, b.grad!, { rows: 1, columns: rows, at: () => 1 }, DY);
          assert.is(addend.grad?.dtype, addend.dtype, label);
          const DA = await stored(addend.grad!);
          for (let m = 0; m < rows; m++) {
            for (let n = 0; n < out; n++) {
              const most = ROUNDING[addend.dtype]! * Math.abs(DY.at(m, n));
              assert.ok(Math.abs(DA.at(m, n) - DY.at(m, n)) <= most, `${label}: gradient of the addend [${m}, ${n}]`);
            }
          }
          for (const t of [x, w, b, addend, dy, y]) t.dispose();
        }
      }
    }
  });
}

test('an activation in the launch of its product is that behind it, with a gradient and without', async () => {
  for (const backend of backends) {
    for (const [rows, inner, out] of [[1, 64, 72], [3, 35, 33], [16, 2048, 36], [70, 320, 68]]) {
      for (const activation of [geluTanh, silu, relu, gelu]) {
        const [x, w, b] = [tensor(backend, 1, [rows, inner]), tensor(backend, 2, [out, inner]), tensor(backend, 3, [out])];
        const addend = tensor(backend, 5, [rows, out]);
        const label = `${backend.kind} ${rows}×${inner}×${out} ${activation.torchName}`;
        const fused = noGrad(() => linear(x, w, b, { activation, addend }));
        const apart = linear(x, w, b, { activation, addend });
        const error = relativeError(await fused.data(), await noGrad(() => add(activation(linear(x, w, b)), addend)).data());
        assert.ok(error < 1e-6, `${label}: ${error}`);
        assert.ok(relativeError(await apart.data(), await fused.data()) < 1e-6, label);
        backward(sum(apart));
        assert.ok(x.grad && w.grad && b.grad && addend.grad, label);
        for (const t of [x, w, b, addend, fused, apart]) t.dispose();
      }
    }
  }
});

test('matmul, also over batches that repeat', () =>
  each(async (backend, format, step) => {
    for (const [batchA, batchB, M, K, N] of [[1, 1, 1, 72, 2 * step], [2, 2, 5, 33, 64], [3, 1, 4, 8, step], [1, 2, 40, 20, 64]]) {
      const label = `${backend.kind} ${batchA}×${M}×${K} by ${format} ${batchB}×${K}×${N}`;
      const a = tensor(backend, 1, [batchA, M, K], 'f16');
      const b = tensor(backend, 2, [batchB, K, N], format);
      const c = matmul(a, b);
      assert.is(c.dtype, format === 'f16' || isBlock(format) ? 'f16' : 'f32', label);
      for (let z = 0; z < Math.max(batchA, batchB); z++) {
        const A = await stored(a, [M, K], batchA > 1 ? z * M * K : 0);
        const B = await stored(b, [K, N], batchB > 1 ? z * K * N : 0);
        await expectProduct(label, c, A, B, undefined, z * M * N);
      }
      for (const t of [a, b, c]) t.dispose();
    }
  }));

test('gradients of matmul have the dtypes of what they are of', () =>
  each(async (backend, format, step) => {
    const [a, b] = [tensor(backend, 1, [2, 3, 5], 'f16'), tensor(backend, 2, [5, 2 * step], format)];
    const dc = tensor(backend, 3, [2, 3, 2 * step], matmul(a, b).dtype);
    scope(() => backward(matmul(a, b), dc));
    const [A, B, DC] = [await stored(a, [6, 5]), await stored(b), await stored(dc, [6, 2 * step])];
    const label = `${backend.kind} ${format}`;
    assert.equal([a.grad?.dtype, b.grad?.dtype], ['f16', isBlock(format) ? undefined : format], label);
    await expectProduct(label, a.grad!, DC, transposed(B));
    if (b.grad) await expectProduct(label, b.grad, transposed(A), DC);
    for (const t of [a, b, dc]) t.dispose();
  }));

test('embedding gives the numbers that are stored', () =>
  each(async (backend, format, step) => {
    for (const width of [step, 3 * step, 64]) {
      const table = tensor(backend, 1, [5, width], format);
      const y = embedding(table, fromData(backend, [4, 0, 4, 2], [2, 2], 'i32'));
      const T = await stored(table);
      const rows = [4, 0, 4, 2].flatMap((row) => Array.from({ length: width }, (_, j) => T.at(row, j)));
      assert.equal([y.dtype, y.shape, ...(await y.data())], ['f32', [2, 2, width], ...rows], `${backend.kind} ${format}`);
      table.dispose();
    }
  }));

test.run();
