import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend } from '../engine/backend.ts';
import { elements } from '../engine/backend.ts';
import { type DType } from '../engine/dtype.ts';
import { toBfloat, toHalf } from '../engine/half.ts';
import { DTypeError } from '../engine/errors.ts';
import { scope } from '../engine/scope.ts';
import { fromData, scalar, type Tensor } from '../engine/tensor.ts';
import {
  add,
  backward,
  cast,
  cat,
  clamp,
  div,
  exp,
  expand,
  flip,
  linear,
  matmul,
  mean,
  mul,
  mulScalar,
  pad,
  permute,
  repeatInterleave,
  reshape,
  slice,
  split,
  stack,
  sum,
} from '../ops/index.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const backends = [await openBackend('reference'), await openBackend('wasm'), await openGpu()];
const test = suite('half and bfloat16 tensors');

test.after(() => backends.forEach(closeBackend));

const HALVES = ['f16', 'bf16'] as const;
const numbers = async (t: Tensor): Promise<number[]> => [...(await cast(t, 'f32').data())];
/** 1, 2, 3, …: exact in both dtypes up to 256. */
const counting = (backend: Backend, shape: readonly number[], dtype: DType): Tensor =>
  fromData(backend, Array.from({ length: elements(shape) }, (_, i) => i + 1), shape, dtype);

const MOVES: Record<string, (x: Tensor) => Tensor[]> = {
  permute: (x) => [permute(x, [1, 2, 0]), permute(x, [2, 1, 0]), permute(x, [1, 0, 2])],
  slice: (x) => [slice(x, 2, 1), slice(x, 2, 0, null, 2), slice(x, 1, 1, 2), slice(x, 0, 1)],
  flip: (x) => [flip(x, [0]), flip(x, [2]), flip(x, [0, 1, 2])],
  expand: (x) => [expand(x, [2, ...x.shape]), expand(slice(x, 2, 0, 1), x.shape)],
  cat: (x) => [0, 1, 2].map((dim) => cat([x, flip(x, [dim]), slice(x, dim, 1)], dim)),
  split: (x) => [0, 1, 2].flatMap((dim) => split(x, [1, x.shape[dim] - 1], dim)),
  stack: (x) => [stack([x, x], 0), stack([x, x], -1)],
  repeatInterleave: (x) => [0, 1, 2].map((dim) => repeatInterleave(x, 3, dim)),
  pad: (x) => [pad(x, [1, 1], 1), pad(x, [0, 0, 1, 0], -2.5), pad(x, [-1, 1, 0, 0, 2, -1])],
};

for (const [name, move] of Object.entries(MOVES)) {
  test(`${name} moves them as it does f32, in odd and even sizes`, async () => {
    for (const backend of backends) {
      for (const shape of [[2, 3, 5], [3, 2, 1], [2, 4, 8], [5, 3, 2], [2, 3, 4]]) {
        if (shape[2] === 1 && name === 'split') continue;
        const want = await Promise.all(move(counting(backend, shape, 'f32')).map(numbers));
        for (const dtype of HALVES) {
          const got = move(counting(backend, shape, dtype));
          assert.ok(got.every((y) => y.dtype === dtype));
          assert.equal(await Promise.all(got.map(numbers)), want, `${backend.kind} ${dtype} [${shape}]`);
        }
      }
    }
  });

  test(`the gradient of ${name} is that of f32`, async () => {
    for (const backend of backends) {
      const gradient = async (dtype: DType) => {
        const x = counting(backend, [2, 3, 4], 'f32');
        x.requiresGrad = true;
        for (const y of move(cast(x, dtype))) {
          backward(sum(mul(cast(y, 'f32'), counting(backend, y.shape, 'f32'))));
        }
        return numbers(x.grad!);
      };
      const want = await gradient('f32');
      for (const dtype of HALVES) {
        const got = await gradient(dtype);
        // 2⁻⁸ of rounding in a gradient of bf16, and a few of them are added.
        got.forEach((g, i) => assert.ok(Math.abs(g - want[i]) <= 0.02 * Math.abs(want[i]), `${backend.kind} ${dtype}`));
      }
    }
  });
}

test('numbers go in and come out; 16-bit words are raw', async () => {
  for (const backend of backends) {
    for (const [dtype, encode] of [['f16', toHalf], ['bf16', toBfloat]] as const) {
      const values = [1.5, -2, 0.25];
      const words = Uint16Array.from(values, encode);
      for (const data of [values, Float32Array.from(values), Float64Array.from(values), words]) {
        const x = fromData(backend, data, [3], dtype);
        assert.equal(await numbers(x), values, `${backend.kind} ${dtype}`);
        assert.equal(await x.data(), words);
      }
      assert.is(await scalar(backend, -0.75, dtype).item(), -0.75);
      assert.is(await cast(scalar(backend, 1.5), dtype).item(), 1.5);
    }
    assert.equal([...(await fromData(backend, [2, 0, -1, NaN], [4], 'bool').data())], [1, 0, 1, 1]);
    assert.equal([...(await fromData(backend, Uint32Array.of(7, 0), [2], 'bool').data())], [1, 0]);
    assert.is(await scalar(backend, 3, 'bool').item(), 1);
  }
});

test('a tensor used twice adds up its gradients', async () => {
  for (const backend of backends) {
    for (const dtype of HALVES) {
      const x = counting(backend, [3], 'f32');
      x.requiresGrad = true;
      const h = cast(x, dtype);
      backward(sum(add(cast(h, 'f32'), cast(h, 'f32'))));
      assert.equal(await numbers(x.grad!), [2, 2, 2], `${backend.kind} ${dtype}`);
    }
  }
});

test('arithmetic gives the dtype of its inputs, and f32 where they differ', async () => {
  for (const backend of backends) {
    const run = (a: DType, b: DType) =>
      scope(() => {
        const x = counting(backend, [2, 3], a);
        const y = counting(backend, [3], b);
        const w = counting(backend, [2, 3], b);
        const results = [add(x, y), div(x, y), mul(x, y), matmul(x, reshape(w, [3, 2]))];
        return { results, alone: [linear(x, w), exp(x), mulScalar(x, 0.5), clamp(x, { max: 2 }), sum(x), mean(x, { dim: 0 })] };
      });
    const want = run('f32', 'f32');
    for (const dtype of HALVES) {
      for (const [a, b] of [[dtype, dtype], [dtype, 'f32'], ['f32', dtype]] as const) {
        const { results, alone } = run(a, b);
        for (const [k, y] of results.entries()) {
          assert.is(y.dtype, a === b ? a : 'f32');
          assert.equal(await numbers(y), await numbers(cast(want.results[k], y.dtype)), `${backend.kind} ${a} ${b} ${k}`);
        }
        for (const [k, y] of alone.entries()) {
          assert.is(y.dtype, a);
          assert.equal(await numbers(y), await numbers(cast(want.alone[k], a)), `${backend.kind} ${a} alone ${k}`);
        }
        for (const y of [...results, ...alone]) y.dispose();
      }
      assert.is(add(counting(backend, [2], 'f16'), counting(backend, [2], 'bf16')).dtype, 'f32');
    }
    assert.throws(() => add(counting(backend, [2], 'f16'), counting(backend, [2], 'i32')), (e: Error) => e instanceof DTypeError);
  }
});

test('gradients pass through arithmetic of halves', async () => {
  for (const backend of backends) {
    for (const dtype of HALVES) {
      const x = counting(backend, [2, 3], dtype);
      x.requiresGrad = true;
      backward(sum(mul(x, x)));
      assert.is(x.grad!.dtype, dtype);
      assert.equal(await numbers(x.grad!), [2, 4, 6, 8, 10, 12], `${backend.kind} ${dtype}`);
    }
  }
});

test.run();
