import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import { shaderKeys } from '../../engine/backends/webgpu/launch.ts';
import { dawnGpu, releaseDawn } from '../../engine/node/dawn.ts';
import { scope } from '../../engine/scope.ts';
import { SortOfClevr } from '../../models/matvlm/data/sort-of-clevr.ts';
import { publishedLosses } from '../../models/matvlm/losses.ts';
import { decodeStep, prefill } from '../../models/matvlm/generate.ts';
import { distillTask, pretrainTask, Trainer } from '../../models/matvlm/train/loop.ts';
import { makeProduct, productCases, WAYS } from '../support/gemm-cases.ts';
import { replayOp, readOpCases } from '../support/golden-ops.ts';
import { readTensors } from '../support/golden-types.ts';
import { runCases } from '../support/support-table.ts';
import { batchesOf, encoder, SETTINGS, smallConfig, smallPair } from '../support/tiny-model.ts';

/**
 * Dawn's null backend runs nothing, but it validates every shader and every dispatch: a kernel that does not compile,
 * binds too little or exceeds a limit fails here, on a machine without any GPU.
 */
const shaders = suite('every shader on the null backend');
const gpu = await dawnGpu({ backend: 'null' });
/** Every module that was compiled, with its label. */
const modules = new Map<string, GPUShaderModule>();
const { createShaderModule } = GPUDevice.prototype;
GPUDevice.prototype.createShaderModule = function (descriptor) {
  const module = createShaderModule.call(this, descriptor);
  modules.set(descriptor.label ?? descriptor.code, module);
  return module;
};
const backend = await WebGpuBackend.create(gpu);

const settings = { ...SETTINGS, checkpointing: true, maxSkipped: 1000 };

shaders('ops of the golden cases, forward and backward', async () => {
  const tensors = await readTensors('test/golden/ops', 'tensors');
  for (const op of readOpCases('test/golden/ops')) {
    const { error } = await replayOp(backend, op, tensors);
    // Values are not computed, so they may differ; anything else is a failure to compile or to dispatch.
    assert.match(error, /^(out|grad)\d+\[\d+\] /, `${op.id}: ${error}`);
  }
  await backend.sync();
});

shaders('ops of all cases, forward and backward', async () => {
  await runCases(backend);
  await backend.sync();
});

shaders('matrix products by every kernel, chosen or not', async () => {
  for (const one of productCases()) {
    for (const { op, takes } of WAYS) if (takes(one.g, backend.caps)) makeProduct(backend, op, one).dispose();
  }
  await backend.sync();
});

shaders('a training and a distillation step, prefill and decoding', async () => {
  const { teacher, student } = smallPair(backend, [0, 2], smallConfig({ resid_pdrop: 0.1 }));
  const loader = batchesOf(new SortOfClevr('train', { length: 8 }));
  for (const kind of ['kl', 'reverse', 'jsd', 'ce', 'l2'] as const) {
    const losses = { ...publishedLosses, kind, ceWeight: 0.5 };
    await new Trainer(distillTask(teacher, student, losses), loader, settings).run({ until: 1 });
  }
  await new Trainer(pretrainTask(teacher), loader, settings).run({ until: 1 });
  scope(() => {
    const cache = student.decoder.cache();
    prefill(student, Array.from(encoder.questionIds('what shape is the red object?').ids), null, cache);
    decodeStep(student, [3], cache);
    cache.dispose();
  });
  await backend.sync();
});

shaders('compile without a warning, which Dawn in Node would print among the results', async () => {
  for (const [label, module] of modules) {
    const { messages } = await module.getCompilationInfo();
    assert.equal([...messages].map(({ message }) => message), [], label);
  }
});

shaders('there are as many as there should be', () => {
  const keys = shaderKeys();
  assert.ok(keys.length > 100, `${keys.length} shaders were compiled`);
  assert.ok(modules.size >= keys.length, `${modules.size} of ${keys.length} modules were looked at`);
  backend.dispose();
  releaseDawn();
});

shaders.run();
