import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import {
  add,
  backward,
  cast,
  clone,
  fill,
  l2Distance,
  layerNorm,
  mulScalar,
  norm,
  rmsNorm,
  rmsNormGated,
  square,
  sum,
} from '../../ops/index.ts';
import { agreement, assertNear, evaluate, random } from '../support/agree.ts';
import { closeBackend, openBackend, openGpu, openWasms } from '../support/backends.ts';

const reference = await openBackend('reference');
const exact = new ReferenceBackend({ double: true });
const wasms = await openWasms();
const gpu = await openGpu();
const test = suite('norms');

test.after(() => [reference, exact, gpu, ...wasms].forEach(closeBackend));

const agree = agreement(reference, [gpu, ...wasms], 3e-5);

test('norms of 16-bit floats are those of the same numbers in f32, whatever the weights are stored in', async () => {
  for (const backend of [reference, gpu, ...wasms]) {
    for (const [dtype, weights, most] of [['f16', 'f32', 4e-3], ['f32', 'bf16', 4e-3], ['bf16', 'f16', 2e-2]] as const) {
      const made = scope(() => {
        const [x, z] = [1, 2].map((seed) => cast(fromData(backend, random(60, seed, 6), [5, 12]), dtype));
        const [w, b] = [3, 4].map((seed) => cast(fromData(backend, random(12, seed), [12]), weights));
        const wide = [x, z, w, b].map((t) => clone(cast(t, 'f32')));
        const results = [[x, z, w, b], wide].map((leaves) => {
          for (const leaf of leaves) leaf.requiresGrad = true;
          const [x, z, w, b] = leaves;
          const gated = rmsNormGated(layerNorm(x, w, b), z, w, { groupSize: 4 });
          const y = cast(add(gated, cast(rmsNormGated(x, z, rmsNorm(w, b), { normBeforeGate: true }), gated.dtype)), 'f32');
          backward(sum(square(y)));
          return [y.detach(), ...leaves.map((leaf) => leaf.grad!.detach())];
        });
        assert.equal(results[0].slice(1).map((t) => t.dtype), [dtype, dtype, weights, weights]);
        return results.flat().map((t) => cast(t, 'f32').detach());
      });
      const data = await Promise.all(made.map((t) => t.data()));
      assertNear(data.slice(0, 5), data.slice(5), `${backend.kind} ${dtype} by ${weights}`, most);
      for (const t of made) t.dispose();
    }
  }
});

test('layer norm of far-off values keeps their differences', async () => {
  const data = random(4 * 64, 2, 2, 1000);
  const inputs = [{ shape: [4, 64], data }, { shape: [64] }, { shape: [64] }];
  await agree(inputs, ([x, w, b]) => [layerNorm(x, w, b)], 'mean 1000', 5e-4);
});

test('the gradient of the weights has the same bits twice', async () => {
  const body = ([x, w, b]: Tensor[]) => [layerNorm(x, w, b)];
  const inputs = [{ shape: [3000, 70] }, { shape: [70] }, { shape: [70] }];
  assert.equal(await evaluate(gpu, inputs, body), await evaluate(gpu, inputs, body));
});

/** Rows that f32 holds and whose squares, or whose sum, it does not. */
const SIZES = [1e20, 1e30, 3e37, 1e-20, 1e-25, 1e-30];

test('rows of any size, and their gradients', async () => {
  const norms: [name: string, width: number, body: (t: Tensor[], eps: number) => Tensor][] = [
    ['layer', 3, ([x, w, b], eps) => layerNorm(x, w, b, eps)],
    ['rms', 2, ([x, w], eps) => rmsNorm(x, w, eps)],
    ['gated after', 2, ([x, w], eps) => rmsNormGated(x, fill(x.backend, x.shape, 1.5), w, { normBeforeGate: true, eps })],
    ['gated before', 2, ([x, w], eps) => rmsNormGated(x, fill(x.backend, x.shape, 1.5), w, { eps })],
    ['norm', 1, ([x]) => norm(x)],
    ['distance', 1, ([x]) => l2Distance(x, mulScalar(x.detach(), 2))],
  ];
  for (const size of SIZES) {
    for (const eps of [0, 1e-5]) {
      // Without eps the gradient of a row is near 1/size times what is left of a difference.
      const x = { shape: [3, 70], data: random(210, 5, size, 0.2 * size) };
      const inputs = [x, { shape: [70] }, { shape: [70] }];
      for (const [name, width, body] of norms) {
        const want = await evaluate(exact, inputs.slice(0, width), (t) => [body(t, eps)]);
        for (const backend of [reference, gpu, ...wasms]) {
          const got = await evaluate(backend, inputs.slice(0, width), (t) => [body(t, eps)]);
          got.forEach((list, k) => {
            const most = Math.max(...want[k].map(Math.abs));
            const off = Math.max(...list.map((v: number, i: number) => Math.abs(v / most - want[k][i] / most)));
            assert.ok(off < 2e-5 || most < 1e-33, `${backend.kind} ${name} of ${size}, eps ${eps}: result ${k} is ${off} off`);
          });
        }
      }
    }
  }
});

test.run();
