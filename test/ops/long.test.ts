import * as assert from 'uvu/assert';
import { type Backend, elements } from '../../engine/backend.ts';
import { definedOps, spec } from '../../engine/op.ts';
import { slotsOf } from '../../engine/plan.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { causalConv1d, fill, sum } = ops;
const { test, backends } = await suiteOnBackends('long sums and many workgroups');

/** 0.1 as f32. */
const TENTH = Math.fround(0.1);
const LONG = 100_000;

/** A sum of LONG tenths, and how far off it may be. */
const SUMS: [name: string, body: (b: Backend) => Tensor, most: number][] = [
  ['sum', (b) => sum(fill(b, [LONG], 0.1)), 3e-7],
  ['sum over the first dimension', (b) => sum(fill(b, [LONG, 2], 0.1), { dim: 0 }), 3e-7],
  ['sum over many rows of five', (b) => sum(fill(b, [LONG, 5], 0.1), { dim: 0 }), 3e-7],
  ['sum over a middle dimension', (b) => sum(fill(b, [2, LONG, 2], 0.1), { dim: 1 }), 3e-7],
  ['sum over outer dimensions', (b) => sum(fill(b, [LONG / 10, 2, 10], 0.1), { dim: [0, 2] }), 3e-7],
  ['mean, as often', (b) => ops.mulScalar(ops.mean(fill(b, [LONG], 0.1)), LONG), 3e-7],
  ['last of cumsum', (b) => ops.slice(ops.cumsum(fill(b, [LONG], 0.1), 0), 0, -1), 1e-6],
  ['last of cumsum over rows', (b) => ops.slice(ops.cumsum(fill(b, [LONG, 2], 0.1), 0), 0, -1), 1e-6],
  ['dot product', (b) => ops.matmul(fill(b, [LONG], 0.1), fill(b, [LONG], 1)), 5e-6],
  ['vector times matrix', (b) => ops.matmul(fill(b, [1, LONG], 0.1), fill(b, [LONG, 2], 1)), 5e-6],
  ['linear with two rows', (b) => ops.linear(fill(b, [2, LONG], 0.1), fill(b, [2, LONG], 1)), 1e-5],
  ['product of matrices', (b) => ops.matmul(fill(b, [4, LONG], 0.1), fill(b, [LONG, 5], 1)), 5e-6],
];

test('long sums are right to rounding', async () => {
  for (const backend of backends) {
    for (const [name, body, most] of SUMS) {
      for (const v of await scope(() => body(backend).detach()).data()) {
        assert.ok(Math.abs(v / (TENTH * LONG) - 1) <= most, `${backend.kind}, ${name}: ${v}`);
      }
    }
  }
});

/** Gradients that are sums of LONG/2 tenths, as many as the parameter has elements. */
const GRADIENTS: [name: string, parameter: number[], body: (b: Backend, p: Tensor) => Tensor][] = [
  ['bias of layer norm', [3], (b, p) => ops.layerNorm(fill(b, [LONG, 3], 1), fill(b, [3], 1), p)],
  ['bias of linear', [3], (b, p) => ops.linear(fill(b, [LONG, 2], 1), fill(b, [3, 2], 1), p)],
  ['weight of linear', [3, 2], (b, p) => ops.linear(fill(b, [LONG, 2], 1), p)],
  ['bias of a convolution', [3], (b, p) => causalConv1d(fill(b, [1, 3, LONG], 1), fill(b, [3, 1], 1), p)],
  ['weight of a convolution', [3, 1], (b, p) => causalConv1d(fill(b, [1, LONG, 3], 1), p, null, { layout: 'blc' })],
  ['input of gather', [1, 3], (b, p) => ops.gather(p, 0, fill(b, [LONG, 3], 0, 'i32'))],
  ['short row that is looked up', [1, 3], (b, p) => ops.embedding(p, fill(b, [LONG], 0, 'i32'))],
  ['long row that is looked up', [1, 40], (b, p) => ops.embedding(p, fill(b, [LONG], 0, 'i32'))],
  ['column that is selected', [2, 1], (b, p) => ops.indexSelect(p, 1, fill(b, [LONG], 0, 'i32'))],
  ['stretched term', [1, 3], (b, p) => ops.add(fill(b, [LONG, 3], 1), p)],
];

test('gradients that are long sums are right to rounding', async () => {
  for (const backend of backends) {
    for (const [name, shape, body] of GRADIENTS) {
      const p = fill(backend, shape, 1);
      p.requiresGrad = true;
      scope(() => {
        const y = body(backend, p);
        ops.backward(y, fill(backend, y.shape, 0.1));
      });
      for (const v of await p.grad!.data()) {
        assert.ok(Math.abs(v / (TENTH * LONG) - 1) <= 5e-6, `${backend.kind}, ${name}: ${v}`);
      }
    }
  }
});

test('KL over many rows, and over wide ones, is right to rounding', async () => {
  const many = 3 * LONG;
  const pairs = (n: number, b: number) => new Float32Array(2 * n).map((_, i) => (i % 2) * b);
  const kl = { kind: 'kl', temperature: 1, reduction: 'mean' } as const;
  for (const backend of backends) {
    const value = (body: () => Tensor) => scope(() => body().detach()).item();
    // Of (¼, ¾) from (½, ½).
    const rows = await value(() => {
      const teacher = fromData(backend, pairs(many, Math.log(3)), [many, 2]);
      return ops.distillLoss(fill(backend, [many, 2], 0), teacher, kl, fill(backend, [many], 0.1));
    });
    const some = Math.LN2 + 0.25 * Math.log(0.25) + 0.75 * Math.log(0.75);
    assert.ok(Math.abs(rows / some - 1) < 2e-6, `${backend.kind}: ${rows}, expected ${some}`);
    // Of the flat distribution from one whose logits are 0 and 1 by turns.
    const wide = await value(() => {
      const student = fromData(backend, pairs(LONG, 1), [1, 2 * LONG]);
      return ops.distillLoss(student, fill(backend, [1, 2 * LONG], 0), kl);
    });
    const one = Math.log((1 + Math.E) / 2) - 0.5;
    assert.ok(Math.abs(wide / one - 1) < 6e-6, `${backend.kind}: ${wide}, expected ${one}`);
  }
});

test('65,537 products in one call', async () => {
  for (const backend of backends) {
    const c = await ops.matmul(fill(backend, [65_537, 1, 3], 1), fill(backend, [65_537, 3, 1], 2)).data();
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
function launches(name: string, inputs: number[][], outputs: (number[] | null)[], attrs: object, software = false) {
  const op = definedOps().find((own) => own.name === name)!;
  const slots = slotsOf(inputs.map((shape) => spec(shape)), outputs.map((shape) => shape ? spec(shape) : undefined));
  const scratch = (shape: readonly number[]) => ({ ...spec(shape), size: elements(shape), slot: 99 });
  const device = { caps: caps(software), scratch };
  return op.webgpu(op.takes.named(slots.inputs), op.gives.named(slots.outputs), attrs, device);
}

const CASES: [name: string, inputs: number[][], outputs: (number[] | null)[], attrs: object][] = [
  ['matmul', [[MANY, 1, 8, 8], [MANY, 1, 8, 8]], [[MANY, 1, 8, 8]], {}],
  ['matmul', [[1, MANY, 1, 8], [1, 1, 8, 8]], [[1, MANY, 1, 8]], {}],
  ['matmul', [[1, 1, MANY, 8], [1, 1, 8, 8]], [[1, 1, MANY, 8]], {}],
  ['matmul', [[1, 1, 8, 8], [1, 1, 8, 4 * MANY]], [[1, 1, 8, 4 * MANY]], {}],
  ['matmul', [[1, 1, 8, 16 * MANY], [1, 1, 16 * MANY, 8]], [[1, 1, 8, 8]], { transA: false }],
  ['linear', [[1, 8], [4 * MANY, 8]], [[1, 4 * MANY]], {}],
  ['sum', [[MANY, 64]], [[64]], { dims: [0], keepdim: false }],
  ['sum', [[MANY, 64]], [[MANY]], { dims: [1], keepdim: false }],
  ['sort', [[200_000_000]], [[5]], { keep: 5, dim: 0, descending: true }],
  ['sort', [[MANY, 4]], [[MANY, 1]], { keep: 1, dim: 1, descending: true }],
  ['cumsum', [[MANY, 64]], [[MANY, 64]], { dim: 1, reverse: false }],
  ['index_select_backward', [[8], [8, 64]], [[MANY, 64]], { dim: 0, shape: [MANY, 64], dtype: 'f32' }],
  ['layer_norm', [[MANY, 4], [4], [4]], [[MANY, 4], [MANY, 1], [MANY, 1]], { group: 4, eps: 0 }],
  ['layer_norm_weight_backward', [[2, MANY], [2, MANY], [2, 1], [2, 1]], [[MANY], [MANY]], { group: MANY }],
  [
    'causal_conv1d_backward',
    [[1, MANY, 4], [MANY, 4], [1, MANY, 4]],
    [null, [MANY, 4]],
    { silu: false, layout: 'bcl', wants: { x: false, w: true, bias: false, initial: false } },
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
