import * as assert from 'uvu/assert';
import { type Backend, elements } from '../../engine/backend.ts';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import { type DType, FLOATS, isBlock } from '../../engine/dtype.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { add, backward, geluTanh, linear, linears, linearSum, silu, sum } from '../../ops/index.ts';
import { random } from '../support/agree.ts';
import { takeHardwareKernels } from '../support/backends.ts';
import { relativeError } from '../support/golden-types.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends, gpu } = await suiteOnBackends('linear layers in one launch');
/** Drivers on the CPU compile these kernels for many seconds, and those of more rows for minutes. */
const slow = gpu instanceof WebGpuBackend && gpu.caps.software;
takeHardwareKernels(gpu);

function tensor(backend: Backend, seed: number, shape: readonly number[], dtype: DType = 'f32'): Tensor {
  const t = fromData(backend, random(elements(shape), seed), shape, dtype);
  t.requiresGrad = !isBlock(dtype);
  return t;
}

test('several layers of one x, and the sum of several, are those layers one by one', async () => {
  for (const backend of backends) {
    for (const [rows, inner, widths] of [[1, 64, [72, 36, 12]], [3, 35, [33, 1]], [2, 300, [40, 40, 40, 160]], [9, 64, [8, 9]]] as const) {
      const few = backend === gpu && slow;
      if (few && ![1, 3].includes(rows)) continue;
      const formats = few ? (['f32'] as const) : FLOATS;
      for (const format of [...formats, ...(inner === 64 && !few ? (['int8', 'int4'] as const) : [])]) {
        const x = tensor(backend, 1, [1, rows, inner], 'f32');
        const layers = widths.map((out, i) => ({
          weight: tensor(backend, 10 + i, [out, inner], format),
          bias: i === 1 ? null : tensor(backend, 20 + i, [out]),
          ...(i % 2 === 0 && { activation: [geluTanh, silu][i / 2] }),
        }));
        const label = `${backend.kind} ${rows}×${inner} by ${format} of ${widths}`;
        const apart = () => layers.map(({ weight, bias, activation }) => linear(x, weight, bias, { activation }));
        const [want, got, trained] = [noGrad(apart), noGrad(() => linears(x, layers)), linears(x, layers)];
        for (const made of [got, trained]) {
          for (const [i, y] of made.entries()) {
            assert.equal(y.shape, [1, rows, widths[i]], label);
            assert.ok(relativeError(await y.data(), await want[i].data()) < 1e-6, `${label}, layer ${i}`);
          }
        }
        const back = widths.map((out, i) => [want[i], { weight: tensor(backend, 30 + i, [inner, out]), bias: layers[i].bias && tensor(backend, 40 + i, [inner]) }] as const);
        const summed = () => back.reduce((sum, [y, { weight, bias }]) => add(sum, linear(y, weight, bias)), x);
        const [wantSum, gotSum] = [noGrad(summed), noGrad(() => linearSum(x, back))];
        assert.ok(relativeError(await gotSum.data(), await wantSum.data()) < 1e-6, `${label}, back`);
        if (few) continue;
        backward(sum(linearSum(x, back)));
        assert.ok(x.grad && back.every(([, { weight }]) => weight.grad), label);
      }
    }
  }
});

test.run();
