import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { elements } from '../engine/backend.ts';
import type { GpuArg, GpuCall, Launch } from '../engine/backends/webgpu/launch.ts';
import { definedOps } from '../engine/op.ts';
import { fill, matmul } from '../ops/index.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const backends = [await openBackend('reference'), await openBackend('wasm'), await openGpu()];
const test = suite('long sums and many workgroups');

test.after(() => backends.forEach(closeBackend));

test('65,537 products in one call', async () => {
  for (const backend of backends) {
    const c = await matmul(fill(backend, [65_537, 1, 3], 1), fill(backend, [65_537, 3, 1], 2)).data();
    const wrong = c.findIndex((v: number) => v !== 6);
    assert.is(wrong, -1, `${backend.kind}: product ${wrong} is ${c[wrong]}`);
  }
});

/** What WebGPU allows everywhere. */
const MOST = 65_535;
const MANY = 5_000_000;
const caps = (software: boolean) => ({
  ...{ f16: true, maxInvocations: 1024, maxWorkgroupMemory: 48 << 10, maxStorageBuffers: 16 },
  software,
});

/** The launches of an op for inputs and outputs of those shapes: pure data, nothing runs. */
function launches(name: string, inputs: number[][], outputs: number[][], attrs: object, software = false): Launch[] {
  const arg = (shape: readonly number[]) => ({ shape, size: elements(shape), dtype: 'f32' }) as GpuArg;
  const call = { inputs: inputs.map(arg), outputs: outputs.map(arg), attrs, caps: caps(software), scratch: arg };
  return definedOps().find((op) => op.name === name)!.webgpu(call as unknown as GpuCall<never>);
}

const CASES: [name: string, inputs: number[][], outputs: number[][], attrs: object][] = [
  ['matmul', [[MANY, 1, 8, 8], [MANY, 1, 8, 8]], [[MANY, 1, 8, 8]], {}],
  ['matmul', [[1, MANY, 1, 8], [1, 1, 8, 8]], [[1, MANY, 1, 8]], {}],
  ['matmul', [[1, 1, MANY, 8], [1, 1, 8, 8]], [[1, 1, MANY, 8]], {}],
  ['matmul', [[1, 1, 8, 8], [1, 1, 8, 4 * MANY]], [[1, 1, 8, 4 * MANY]], {}],
  ['matmul', [[1, 1, 8, 16 * MANY], [1, 1, 16 * MANY, 8]], [[1, 1, 8, 8]], { transA: false }],
  ['linear', [[1, 8], [4 * MANY, 8]], [[1, 4 * MANY]], {}],
  ['sum', [[MANY, 64]], [[64]], { dims: [0], keepdim: false }],
  ['sum', [[MANY, 64]], [[MANY]], { dims: [1], keepdim: false }],
  ['topk', [[200_000_000]], [[5], [5]], { k: 5, dim: 0 }],
  ['topk', [[MANY, 4]], [[MANY, 1], [MANY, 1]], { k: 1, dim: 1 }],
  ['cumsum', [[MANY, 64]], [[MANY, 64]], { dim: 1, reverse: false }],
  ['index_select_backward', [[8], [8, 64]], [[MANY, 64]], { dim: 0, shape: [MANY, 64] }],
  ['layer_norm', [[MANY, 4], [4], [4]], [[MANY, 4], [MANY, 1], [MANY, 1]], { group: 4, eps: 0 }],
  ['layer_norm_weight_backward', [[2, MANY], [2, MANY], [2, 1], [2, 1]], [[MANY], [MANY]], { group: MANY }],
  [
    'causal_conv1d_backward',
    [[1, MANY, 4], [MANY, 4], [1, MANY, 4]],
    [[MANY, 4]],
    { silu: false, layout: 'bcl', bias: false, initial: false, wants: [false, true, false, false] },
  ],
];

for (const [name, inputs, outputs, attrs] of CASES) {
  test(`${name} of ${inputs.map((s) => `[${s}]`).join(' and ')} stays within the grid`, () => {
    for (const software of [false, true]) {
      const made = launches(name, inputs, outputs, attrs, software);
      assert.ok(made.length > 0);
      for (const { shader, grid } of made) assert.ok(grid.every((n) => n >= 1 && n <= MOST), `${shader.key}: ${grid}`);
    }
  });
}

test.run();
