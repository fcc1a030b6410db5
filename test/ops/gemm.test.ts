import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import type { GpuCaps } from '../../engine/backends/webgpu/launch.ts';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import { decode } from '../../engine/dtype.ts';
import { spec } from '../../engine/op.ts';
import { slotsOf } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { gpuProduct } from '../../ops/gemm/kernel.ts';
import { plainProduct, type Product } from '../../ops/gemm/product.ts';
import { cheapest, fits } from '../../ops/gemm/tiles.ts';
import { productOnGpu } from '../../ops/gemm/variants.ts';
import { closeBackend, openBackend, openGpu } from '../support/backends.ts';
import { makeProduct, productCases, shapes, WAYS } from '../support/gemm-cases.ts';

const H200: GpuCaps = { f16: true, maxInvocations: 1024, maxWorkgroupMemory: 49152, maxStorageBuffers: 10, software: false };
const LEAST: GpuCaps = { f16: false, maxInvocations: 256, maxWorkgroupMemory: 16384, maxStorageBuffers: 8, software: false };
const test = suite('kernels of matrix products on WebGPU');

const slotsFor = (g: Product) => {
  const { a, b } = shapes(g);
  const { inputs, outputs } = slotsOf([spec(a), spec(b)], [spec([...g.batch, g.M, g.N])]);
  return { a: inputs[0]!, b: inputs[1]!, c: outputs[0]! };
};

const planner = (caps: GpuCaps) => ({
  caps,
  scratch: (shape: readonly number[]) => ({ ...spec(shape), size: elements(shape), slot: 9 }),
});

const launchesOf = (g: Product, caps: GpuCaps) => productOnGpu(g, slotsFor(g), planner(caps));
const onGpu = (g: Product, caps: GpuCaps) => gpuProduct(g, slotsFor(g), caps);

test('weight gradients split K and fill the device, large products do not', () => {
  for (const width of [128, 384, 512]) {
    const launches = launchesOf(plainProduct(width, width, 25_000, true, false), H200);
    const groups = launches[0].grid.reduce((a, b) => a * b);
    assert.ok(launches.length === 2 && groups >= 120, `${width}: ${groups} workgroups`);
  }
  assert.is(launchesOf(plainProduct(4096, 4096, 4096, false, false), H200).length, 1);
});

test('what is chosen fits the limits', () => {
  for (const [M, N, K] of [[512, 512, 512], [25_000, 128, 384], [128, 128, 25_000]]) {
    assert.ok(fits(cheapest(onGpu(plainProduct(M, N, K, false, true), LEAST), LEAST).tile, LEAST), `${M}×${N}×${K}`);
  }
});

async function numbers(t: Tensor) {
  const values = decode(t.dtype, await t.data(), t.size);
  t.dispose();
  return values;
}

const gpu = await openGpu();
const onAdapter = gpu instanceof WebGpuBackend ? test : test.skip;
/** A kernel makes every so many-th case: it meets all layouts, formats and sizes, and each case meets some kernels. */
const STRIDE = 7;

onAdapter('products agree with loops on the adapter: on hardware by every kernel, else by those that compile there in a second', async () => {
  const reference = await openBackend('reference');
  const { caps } = gpu as WebGpuBackend;
  const few = ['dot', 'axpy'];
  for (const [i, one] of productCases().entries()) {
    if (caps.software && one.dtype !== 'f32') continue;
    const want = await numbers(makeProduct(reference, WAYS[0].op, one));
    const most = one.dtype === 'f16' ? 2 ** -10 : 1e-6 * Math.sqrt(one.g.K) + 2e-6;
    for (const [k, { name, op, takes }] of WAYS.entries()) {
      const quick = name === 'direct' || (few.includes(name) && one.g.M === 3);
      if (caps.software ? !quick : !few.includes(name) && (i - k) % STRIDE !== 0) continue;
      if (!takes(one.g, caps)) continue;
      const got = await numbers(makeProduct(gpu, op, one));
      const wrong = want.findIndex((v: number, i: number) => !(Math.abs(got[i] - v) <= most * (1 + Math.abs(v))));
      assert.is(wrong, -1, `${name} ${JSON.stringify(one)}: ${got[wrong]} at ${wrong}, expected ${want[wrong]}`);
    }
  }
  closeBackend(reference);
});
test.after(() => closeBackend(gpu));

test.run();
