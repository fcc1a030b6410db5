import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import type { Run } from '../cases/case.ts';
import { agreement, assertNear, evaluate, random } from '../support/agree.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { add, cast, fill, layerNorm, rmsNorm, rmsNormGated } = ops;
const exact = new ReferenceBackend({ double: true });
const { test, backends, reference, others } = await suiteOnBackends('norms');

const agree = agreement(reference, others, 3e-5);

test('norms of 16-bit floats are those of the same numbers in f32, whatever the weights are stored in', async () => {
  for (const backend of backends) {
    for (const [dtype, weights, most] of [['f16', 'f32', 4e-3], ['f32', 'bf16', 4e-3], ['bf16', 'f16', 2e-2]] as const) {
      const made = scope(() => {
        const [x, z] = [1, 2].map((seed) => cast(fromData(backend, random(60, seed, 6), [5, 12]), dtype));
        const [w, b] = [3, 4].map((seed) => cast(fromData(backend, random(12, seed), [12]), weights));
        const wide = [x, z, w, b].map((t) => ops.clone(cast(t, 'f32')));
        const results = [[x, z, w, b], wide].map((leaves) => {
          for (const leaf of leaves) leaf.requiresGrad = true;
          const [x, z, w, b] = leaves;
          const gated = rmsNormGated(layerNorm(x, w, b), z, w, { groupSize: 4 });
          const y = cast(add(gated, cast(rmsNormGated(x, z, rmsNorm(w, b), { normBeforeGate: true }), gated.dtype)), 'f32');
          ops.backward(ops.sum(ops.square(y)));
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
  await agree((t) => layerNorm(t.leaf(data, [4, 64]), t(64), t(64)), 'mean 1000', 5e-4);
});

/** Rows that f32 holds and whose squares, or whose sum, it does not. */
const SIZES = [1e20, 1e30, 3e37, 1e-20, 1e-25, 1e-30];

test('rows of any size, and their gradients', async () => {
  const norms: [name: string, body: (x: Tensor, w: Tensor, b: Tensor, eps: number) => Tensor][] = [
    ['layer', (x, w, b, eps) => layerNorm(x, w, b, eps)],
    ['rms', (x, w, _, eps) => rmsNorm(x, w, eps)],
    ['gated after', (x, w, _, eps) => rmsNormGated(x, fill(x.backend, x.shape, 1.5), w, { normBeforeGate: true, eps })],
    ['gated before', (x, w, _, eps) => rmsNormGated(x, fill(x.backend, x.shape, 1.5), w, { eps })],
    ['norm', (x) => ops.norm(x)],
    ['distance', (x) => ops.l2Distance(x, ops.mulScalar(x.detach(), 2))],
  ];
  for (const size of SIZES) {
    for (const eps of [0, 1e-5]) {
      // Without eps the gradient of a row is near 1/size times what is left of a difference.
      const data = random(210, 5, size, 0.2 * size);
      for (const [name, body] of norms) {
        const run: Run = (t) => body(t.leaf(data, [3, 70]), t(70), t(70), eps);
        const want = await evaluate(exact, run);
        for (const backend of backends) {
          const got = await evaluate(backend, run);
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
