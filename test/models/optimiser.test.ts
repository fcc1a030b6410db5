import * as assert from 'uvu/assert';
import type { Backend } from '../../engine/backend.ts';
import { capture } from '../../engine/capture.ts';
import { CheckpointError } from '../../engine/errors.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, scalar, type Tensor, update } from '../../engine/tensor.ts';
import { AdamW, type AdamWOptions } from '../../models/nn/optimiser.ts';
import { pretrainTask, Trainer } from '../../models/matvlm/train/loop.ts';
import { disposeModel } from '../../models/matvlm/weights.ts';
import { adamwStep, backward, gradNorm, l2Distance, mul, norm, sum, zeros } from '../../ops/index.ts';
import { random } from '../support/agree.ts';
import { throws } from '../support/expect.ts';
import { SETTINGS, smallTeacher } from '../support/tiny-model.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends } = await suiteOnBackends('optimiser');

/** AdamW in f64, as torch.optim.AdamW computes it, of one element. */
class Reference {
  private m = 0;
  private v = 0;
  private steps = 0;
  constructor(
    public value: number,
    private readonly decay: number,
  ) {}

  step(lr: number, g: number, { betas: [beta1, beta2], eps }: AdamWOptions): void {
    this.steps++;
    this.m = beta1 * this.m + (1 - beta1) * g;
    this.v = beta2 * this.v + (1 - beta2) * g * g;
    const denominator = Math.sqrt(this.v) / Math.sqrt(-Math.expm1(this.steps * Math.log(beta2))) + eps;
    this.value -= lr * this.decay * this.value;
    this.value -= ((lr / -Math.expm1(this.steps * Math.log(beta1))) * this.m) / denominator;
  }
}

/** Parameters with their gradients, null for none. */
type Given = readonly (readonly [Tensor, readonly number[] | null])[];

/** A step with those gradients. */
function step(optimiser: AdamW, lr: number, grads: Given, loss = 1): Tensor {
  return scope(() => {
    for (const [param, grad] of grads) if (grad) backward(sum(mul(param, fromData(param.backend, grad, param.shape))));
    const { backend } = grads[0][0];
    return optimiser.step(scalar(backend, lr), scalar(backend, loss));
  });
}

function parameter(backend: Backend, data: readonly number[], shape: readonly number[]): Tensor {
  const param = fromData(backend, data, shape);
  param.requiresGrad = true;
  return param;
}

test('bias correction counts the updates of a parameter: no steps that were skipped or gave it no gradient', async () => {
  const options: AdamWOptions = { betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.1, clip: 0 };
  for (const backend of backends) {
    const { live } = backend.memory;
    const [a, b] = [parameter(backend, [1, -2], [1, 2]), parameter(backend, [3], [1])];
    const want = [new Reference(1, 0.1), new Reference(-2, 0.1), new Reference(3, 0)];
    const optimiser = new AdamW(new Map([['a', a], ['b', b]]), options);
    // Of each step: gradients of a and b, and the loss.
    const steps: [readonly number[] | null, readonly number[] | null, number][] = [
      [[1, 2], [5], NaN],
      [[1, 2], null, 1],
      [[NaN, 2], [1], 1],
      ...Array.from({ length: 20 }, (_, i): [number[], null, number] => [[Math.sin(i), 0.5], null, 1]),
      [[0.5, -1], [0.25], 1],
      [null, [Infinity], 1],
      [null, [-0.75], 1],
      [[3, 0], [1], 1],
    ];
    for (const [da, db, loss] of steps) {
      const stats = step(optimiser, 0.1, [[a, da], [b, db]], loss);
      const finite = [loss, ...(da ?? []), ...(db ?? [])].every(Number.isFinite);
      assert.is((await stats.data())[2], finite ? 1 : 0, backend.kind);
      stats.dispose();
      if (!finite) continue;
      [...(da ?? [null, null]), ...(db ?? [null])].forEach((g, i) => g !== null && want[i].step(0.1, g, options));
      const got = [...(await a.data()), ...(await b.data())];
      for (const [i, { value }] of want.entries()) {
        assert.ok(Math.abs(got[i] - value) < 2e-6, `${backend.kind} [${i}]: ${got[i]}, not ${value}`);
      }
    }
    const counts = [...optimiser.tensors()].filter(([name]) => name.endsWith('.step'));
    assert.equal(await Promise.all(counts.map(([, t]) => t.item())), [23, 3], backend.kind);
    optimiser.dispose();
    for (const t of [a, b]) t.dispose();
    assert.is(backend.memory.live, live, backend.kind);
  }
});

test('a captured step is replayed with the rate, the gradients and the counts of the time', async () => {
  for (const backend of backends) {
    const options: AdamWOptions = { betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0.1, clip: 1 };
    const loss = scalar(backend, 1);
    const [eager, replayed] = [0, 1].map(() => {
      const w = parameter(backend, [1, -2], [1, 2]);
      return { w, optimiser: new AdamW(new Map([['w', w]]), options), g: zeros(backend, [1, 2]), lr: scalar(backend, 0.1) };
    });
    const take = ({ w, optimiser, g, lr }: typeof eager) => {
      backward(sum(mul(w, g)));
      return optimiser.step(lr, loss);
    };
    update(replayed.g, [0.5, 3]);
    const made = capture(backend, () => take(replayed));
    const steps = [[0.5, 3, 0.1], [-1, 2, 0.05], [NaN, 1, 0.05], [0.25, -1, 1e-3]];
    for (const [i, [a, b, lr]] of steps.entries()) {
      for (const { g, lr: rate } of [eager, replayed]) {
        update(g, [a, b]);
        update(rate, [lr]);
      }
      const stats = scope(() => take(eager));
      if (i > 0) made.replay();
      assert.equal([...(await made.result.data())], [...(await stats.data())], `${backend.kind}: stats of step ${i}`);
      assert.equal([...(await replayed.w.data())], [...(await eager.w.data())], `${backend.kind}: step ${i}`);
      stats.dispose();
    }
    made.result.dispose();
    made.dispose();
    for (const { w, optimiser, g, lr } of [eager, replayed]) {
      optimiser.dispose();
      for (const t of [w, g, lr]) t.dispose();
    }
    loss.dispose();
  }
});

test('a first step moves by the rate, however near 1 the decay rates are, and later ones as in f64', async () => {
  for (const backend of backends) {
    for (const betas of [[0.9, 0.99999], [0.9999, 0.999999], [0, 0], [0.5, 0.9]] as const) {
      const options = { betas, eps: 1e-12, weightDecay: 0, clip: 0 };
      const w = parameter(backend, [0], [1]);
      const optimiser = new AdamW(new Map([['w', w]]), options);
      const want = new Reference(0, 0);
      for (const [i, g] of [0.3, 0.3, -0.1, 2].entries()) {
        step(optimiser, 1, [[w, [g]]]).dispose();
        want.step(1, g, options);
        const got = await w.item();
        const label = `${backend.kind} ${betas} step ${i + 1}`;
        assert.ok(Math.abs(got - want.value) < 3e-6, `${label}: ${got}, not ${want.value}`);
      }
      optimiser.dispose();
      w.dispose();
    }
  }
});

test('the correction after many updates is that of f64', async () => {
  for (const backend of backends) {
    for (const beta of [0.9, 0.999, 0.99999, 0.9999999]) {
      for (const t of [1, 2, 5, 6, 100, 5000, 70_000, 1e6]) {
        const made = scope(() => {
          const [param, m, v] = [zeros(backend, [1]), zeros(backend, [1]), zeros(backend, [1])];
          const given = { grad: fromData(backend, [1], [1]), stats: fromData(backend, [1, 1, 1], [3]) };
          const counts = { step: scalar(backend, 0), before: fromData(backend, [7, t - 1], [2]), index: 1 };
          const rates = { lr: scalar(backend, 1), betas: [beta, 0], eps: 0, weightDecay: 0 } as const;
          adamwStep({ ...given, ...counts, ...rates, param, m, v });
          return param;
        });
        const want = (1 - beta) / Math.expm1(t * Math.log(beta));
        const got = await made.item();
        assert.ok(Math.abs(got / want - 1) < 2e-6, `${backend.kind} β ${beta} t ${t}: ${got}, not ${want}`);
        made.dispose();
      }
    }
  }
});

/** [norm, clip scale, finite] of gradients. */
async function statsOf(backend: Backend, grads: readonly ArrayLike<number>[], maxNorm = 0): Promise<number[]> {
  const { stats } = scope(() => gradNorm(grads.map((g) => fromData(backend, Float32Array.from(g), [g.length])), maxNorm));
  const data = [...(await stats.data())];
  stats.dispose();
  return data;
}

/** `norm` of x, and `l2Distance` of x to 0. */
async function normsOf(backend: Backend, x: readonly number[]): Promise<number[]> {
  const made = scope(() => {
    const t = fromData(backend, x, [x.length]);
    return [norm(t), l2Distance(t, zeros(backend, t.shape))];
  });
  const values = await Promise.all(made.map((t) => t.item()));
  for (const t of made) t.dispose();
  return values;
}

const SMALLEST_NORMAL = 2 ** -126;

test('norms, those of gradients too, are right at every size of the numbers, and clip', async () => {
  const many = random(9000, 1);
  const sized = (scale: number) => many.map((v) => v * scale);
  const cases: ArrayLike<number>[][] = [
    [[3e19, 4e19]],
    [[3e19], [4e19]],
    [[3e-30, 4e-30]],
    [[3e-30], [4e-30]],
    [[1e-25, 2e-25, 1e-10]],
    [[1e38, 2e38]],
    [[1e20], [1], [1e-30]],
    [[1e12, 1e12], [1e12, 9e11]],
    [[1e-12, 2e-12], [9e-13, 1e-13]],
    [many, sized(0.5)],
    [sized(1e30), sized(1e12), many],
    [sized(1e-30), sized(1e-33)],
    [sized(1e-13), sized(1e-12), sized(1e-11)],
    [sized(1e11), sized(1e12), sized(1e13)],
    [[0, 0], [0]],
    [[], [3, 4]],
  ];
  for (const backend of backends) {
    for (const grads of cases) {
      const all = grads.flatMap((g) => Array.from(Float32Array.from(g)));
      const want = Math.sqrt(all.reduce((total, v) => total + v * v, 0));
      const [total, scale, finite] = await statsOf(backend, grads, 0.5);
      const label = `${backend.kind} ${grads.map((g) => `[${Array.from(g).slice(0, 3)}]`)}`;
      assert.ok(Math.abs(total - want) <= 1e-5 * want, `${label}: ${total}, not ${want}`);
      const clip = Math.min(1, 0.5 / (want + 1e-6));
      // A GPU may take a subnormal number for 0.
      const flushed = backend.kind === 'webgpu' && clip < SMALLEST_NORMAL && scale === 0;
      assert.ok(flushed || Math.abs(scale - clip) <= 1e-5 * clip, `${label}: scale ${scale}, not ${clip}`);
      assert.is(finite, 1, label);
      const [one, two] = await normsOf(backend, all);
      assert.ok(Math.abs(one - want) <= 1e-5 * want, `${label}: norm ${one}, not ${want}`);
      assert.ok(Math.abs(two - want) <= 1e-5 * want, `${label}: l2Distance ${two}, not ${want}`);
    }
    for (const bad of [NaN, Infinity, -Infinity]) {
      for (const grads of [[[bad]], [[1e-30, bad]], [[1, 2], [3e38, bad]], [Array.from(many).concat(bad), [1]]]) {
        assert.is((await statsOf(backend, grads, 1))[2], 0, `${backend.kind} ${bad}`);
      }
    }
    for (const grads of [[[3e38, 3e38]], [[3e38], [3e38]]]) {
      const stats = await statsOf(backend, grads, 1);
      assert.equal(stats, [Infinity, 0, 0], `${backend.kind}: a norm that f32 does not hold`);
    }
  }
});

test('gradients of 16 bits have the norm of their numbers', async () => {
  for (const backend of backends) {
    for (const dtype of ['f16', 'bf16'] as const) {
      const [a, b] = [fromData(backend, [3, 0, 0], [3], dtype), fromData(backend, [4], [1])];
      const { stats } = gradNorm([a, b], 1);
      assert.is((await stats.data())[0], 5, `${backend.kind} ${dtype}`);
      for (const t of [a, b, stats]) t.dispose();
    }
  }
});

test('a step clipped from huge gradients moves as far as one of gradients that need none', async () => {
  const options: AdamWOptions = { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 };
  for (const backend of backends) {
    const ends: number[][] = [];
    for (const grad of [[3e19, 4e19], [0.6, 0.8]]) {
      const w = parameter(backend, [0, 0], [2]);
      const optimiser = new AdamW(new Map([['w', w]]), options);
      for (let i = 0; i < 3; i++) step(optimiser, 0.1, [[w, grad]]).dispose();
      ends.push([...(await w.data())]);
      optimiser.dispose();
      w.dispose();
    }
    ends[0].forEach((v, i) => assert.ok(Math.abs(v - ends[1][i]) < 1e-5, `${backend.kind}: ${ends}`));
  }
});

/** A trainer of seed 5 that is not run. */
function idleTrainer(): { trainer: Trainer; end: () => void } {
  const teacher = smallTeacher(backends[0]);
  const trainer = new Trainer(pretrainTask(teacher), { batch: () => Promise.reject(new Error('unused')) }, SETTINGS);
  return { trainer, end: () => (trainer.dispose(), disposeModel(teacher)) };
}

test('a checkpoint that does not count updates by parameter is refused by name', () => {
  const { trainer, end } = idleTrainer();
  const moments = [...trainer.optimiserTensors()].filter(([name]) => !name.endsWith('.step'));
  const old = new Map(moments.map(([name, t]) => [name, new Float32Array(t.size)]));
  throws(() => trainer.restore(trainer.snapshot(), old), CheckpointError, /optimizer.safetensors: ".*\.step" is missing/);
  end();
});

test('a checkpoint of a run with another seed is refused, before anything is taken from it', () => {
  const { trainer, end } = idleTrainer();
  const tensors = new Map([...trainer.optimiserTensors()].map(([name, t]) => [name, new Float32Array(t.size).fill(1)]));
  const { state, seed } = trainer.snapshot();
  const other = { state: { ...state, step: 3 }, seed: seed + 1 };
  throws(() => trainer.restore(other, tensors), CheckpointError, /rng_state.json: seed is 6, that of the run's settings 5/);
  assert.is(trainer.state.step, 0);
  end();
});

test.run();
