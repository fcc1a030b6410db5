import * as assert from 'uvu/assert';
import { type Backend, elements } from '../../engine/backend.ts';
import type { DType } from '../../engine/dtype.ts';
import { toBfloat, toHalf } from '../../engine/half.ts';
import { DTypeError } from '../../engine/errors.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, scalar, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { throws } from '../support/expect.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { add, cast, reshape } = ops;
const { test, backends } = await suiteOnBackends('half and bfloat16 tensors');

const HALVES = ['f16', 'bf16'] as const;
const numbers = async (t: Tensor): Promise<number[]> => [...(await cast(t, 'f32').data())];
/** 1, 2, 3, …: exact in both dtypes up to 256. */
const counting = (backend: Backend, shape: readonly number[], dtype: DType): Tensor =>
  fromData(backend, Array.from({ length: elements(shape) }, (_, i) => i + 1), shape, dtype);

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
      ops.backward(ops.sum(add(cast(h, 'f32'), cast(h, 'f32'))));
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
        const results = [add(x, y), ops.div(x, y), ops.mul(x, y), ops.matmul(x, reshape(w, [3, 2]))];
        const [image, kernel] = [reshape(x, [1, 1, 2, 3]), counting(backend, [1, 1, 2, 2], a)];
        const alone = [
          ...[ops.linear(x, w), ops.exp(x), ops.mulScalar(x, 0.5), ops.clamp(x, { max: 2 })],
          ...[ops.sum(x), ops.mean(x, { dim: 0 }), ops.maxPool2d(image, 2), ops.conv2d(image, kernel, null)],
          ops.causalConv1d(reshape(x, [1, 2, 3]), reshape(kernel, [2, 2]), null),
        ];
        return { results, alone };
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
    throws(() => add(counting(backend, [2], 'f16'), counting(backend, [2], 'i32')), DTypeError);
  }
});

test.run();
