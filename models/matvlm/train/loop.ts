import { CheckpointError } from '../../../engine/errors.ts';
import { NumericError } from '../../nn/errors.ts';
import { scope } from '../../../engine/scope.ts';
import type { Tensor } from '../../../engine/tensor.ts';
import { held } from '../../nn/event-loop.ts';
import { hostFloats } from '../../nn/parameters.ts';
import { add, backward } from '../../../ops/index.ts';
import { Random } from '../../nn/random.ts';
import { distillVqa, type LossParts, setTrainable, vqaLoss } from '../distill.ts';
import type { PassOptions } from '../layers/decoder.ts';
import type { LossOptions } from '../losses.ts';
import type { MaTVLM } from '../model.ts';
import { isTrainable } from '../names.ts';
import { sharesOf, type VqaBatch, vqaData, type VqaInputs } from '../vqa-batch.ts';
import type { BatchLoader } from './loader.ts';
import { Dropout } from '../../nn/dropout.ts';
import { AdamW, type AdamWOptions } from '../../nn/optimiser.ts';
import { RepeatedStep, type StepData, type StepInputs } from '../../nn/repeated-step.ts';
import { type Schedule, wsd } from '../../nn/schedule.ts';

/** What is trained, and the loss that trains it. */
export interface TrainTask {
  readonly model: MaTVLM;
  readonly parameters: ReadonlyMap<string, Tensor>;
  /**
   * The loss of a batch, as its share of the loss of its step. It is called once for batches of the same shapes that
   * follow one another, and what it ran is replayed for the others.
   */
  loss(inputs: VqaInputs, options: PassOptions): LossParts;
}

/** Pre-training: cross-entropy with the answers, every parameter. */
export function pretrainTask(model: MaTVLM): TrainTask {
  const parameters = setTrainable(model, () => true);
  const loss = (inputs: VqaInputs, options: PassOptions): LossParts => {
    return { total: vqaLoss(model, inputs, options), kl: null, layer: null, ce: null };
  };
  return { model, parameters, loss };
}

/** Single-stage distillation: the mixers and the connector. The teacher is left without gradients. */
export function distillTask(teacher: MaTVLM, student: MaTVLM, losses: LossOptions): TrainTask {
  setTrainable(teacher, () => false);
  const parameters = setTrainable(student, isTrainable);
  return { model: student, parameters, loss: (inputs, options) => distillVqa(teacher, student, inputs, losses, options) };
}

export interface TrainSettings {
  readonly optimiser: AdamWOptions;
  /** Peak learning rate. */
  readonly lr: number;
  readonly schedule: Schedule;
  /** Batches that make up one step: means are over the tokens of all of them. */
  readonly accumulate: number;
  /** Recompute decoder layers in backward. */
  readonly checkpointing: boolean;
  /** Steps with a non-finite loss or gradient in a row that stop the run. */
  readonly maxSkipped: number;
  readonly seed: number;
}

/** One finished step. */
export interface StepReport {
  /** Counted from 1. */
  readonly step: number;
  readonly loss: number;
  readonly kl?: number;
  readonly layer?: number;
  readonly ce?: number;
  readonly lr: number;
  readonly gradNorm: number;
  /** The step was not taken, because its loss or gradient was not finite. */
  readonly skipped: boolean;
  /** Tokens of this step's batches. */
  readonly tokens: number;
  readonly milliseconds: number;
}

/** Where a run stands; plain JSON. */
export interface TrainState {
  step: number;
  skipped: number;
  skippedInARow: number;
  tokens: number;
}

/** What a resumed run needs beside the weights and the optimiser's tensors; plain JSON. */
export interface TrainerSnapshot {
  readonly state: TrainState;
  readonly seed: number;
}

export interface RunOptions {
  /** Go on until this many steps are done. */
  readonly until: number;
  readonly signal?: AbortSignal;
  readonly onStep?: (report: StepReport) => void | Promise<void>;
}

/** The parts of a loss that are reported beside the whole. */
const PARTS = ['kl', 'layer', 'ce'] as const;
type PartName = (typeof PARTS)[number];

/** Steps whose numbers have not come back from the device yet, at most. */
const IN_FLIGHT = 3;

interface Waiting {
  readonly values: Promise<ArrayLike<number>>;
  readonly names: readonly PartName[];
  readonly report: Pick<StepReport, 'step' | 'lr' | 'tokens'>;
}

/**
 * The training loop: batches from the loader, gradients summed over the `accumulate` of a step, clipping, AdamW, the
 * schedule. All that varies from step to step follows from the seed and the step's number, so a run that was
 * interrupted and resumed gives the same numbers as one that was not.
 */
export class Trainer {
  readonly state: TrainState = { step: 0, skipped: 0, skippedInARow: 0, tokens: 0 };
  private readonly optimiser: AdamW;
  private readonly step: RepeatedStep;
  /** The parts that the task's loss has. */
  private parts: readonly PartName[] = [];
  private readonly waiting: Waiting[] = [];
  private last = 0;

  constructor(
    private readonly task: TrainTask,
    private readonly loader: Pick<BatchLoader, 'batch'>,
    private readonly settings: TrainSettings,
  ) {
    this.optimiser = new AdamW(task.parameters, settings.optimiser);
    this.step = new RepeatedStep(task.model.backend, (inputs) => this.compute(inputs));
  }

  /**
   * Runs until `until` steps are done, or the signal aborts, which is seen between steps.
   * @throws NumericError after too many skipped steps in a row, naming the step and what is not finite; and whatever a
   * step throws, OutOfMemoryError for one, which leaves the trainer as it was before that step
   */
  async run({ until, signal, onStep }: RunOptions): Promise<void> {
    this.last = performance.now();
    let next = this.batches(this.state.step);
    try {
      while (this.state.step < until && !signal?.aborted) {
        try {
          this.take(await next);
        } catch (error) {
          // The steps before it were taken: they are told, and count.
          await this.settleAll(onStep).catch(() => {});
          throw error;
        }
        if (this.state.step < until) next = this.batches(this.state.step);
        while (this.waiting.length > IN_FLIGHT) await this.settle(onStep);
      }
      await this.settleAll(onStep);
    } finally {
      await Promise.allSettled([next]);
      this.waiting.length = 0;
    }
  }

  /** The optimiser's tensors by name, for a checkpoint. */
  optimiserTensors(): Map<string, Tensor> {
    return this.optimiser.tensors();
  }

  snapshot(): TrainerSnapshot {
    return { state: { ...this.state }, seed: this.settings.seed };
  }

  /**
   * Takes up a run where `snapshot` was taken.
   * @param tensors those of `optimiserTensors`, on the host
   * @throws CheckpointError for one that is missing, or a snapshot of a run with another seed
   */
  restore(snapshot: TrainerSnapshot, tensors: ReadonlyMap<string, Float32Array>): void {
    const { seed } = this.settings;
    if (snapshot.seed !== seed) {
      throw new CheckpointError(`rng_state.json: seed is ${snapshot.seed}, that of the run's settings ${seed}`);
    }
    for (const [name, tensor] of this.optimiser.tensors()) {
      const data = tensors.get(name);
      if (!data) {
        throw new CheckpointError(
          `optimizer.safetensors: "${name}" is missing: the checkpoint is of another run, or of a version that did ` +
            'not count updates by parameter; begin a new run from its weights',
        );
      }
      tensor.backend.write([tensor.buffer], [data]);
    }
    Object.assign(this.state, snapshot.state);
  }

  dispose(): void {
    this.step.dispose();
    this.optimiser.dispose();
  }

  /** Begins to load a step's batches, ahead of time: a failure waits until they are asked for. */
  private batches(step: number): Promise<VqaBatch[]> {
    const { accumulate } = this.settings;
    return held(Promise.all(Array.from({ length: accumulate }, (_, i) => this.loader.batch(step * accumulate + i))));
  }

  /** Enqueues one step; its numbers come back later. */
  private take(batches: readonly VqaBatch[]): void {
    const { step } = this.state;
    const lr = this.settings.lr * wsd(step, this.settings.schedule);
    const tokens = batches.reduce((sum, b) => sum + b.tokens, 0);
    let values: Promise<ArrayLike<number>>;
    try {
      values = held(this.step.run(this.stepData(batches, lr)));
    } catch (error) {
      this.optimiser.zeroGrad();
      throw error;
    }
    this.state.step++;
    this.waiting.push({ values, names: this.parts, report: { step: step + 1, lr, tokens } });
  }

  /** All that a step takes from the host: rate, key of its dropout and, with their number before each name, its batches. */
  private stepData(batches: readonly VqaBatch[], lr: number): StepData {
    const key = Random.stream(this.settings.seed + 2, this.state.step).u32();
    const shares = batches.length > 1 ? sharesOf(batches) : [];
    const parts = batches.flatMap((batch, i) =>
      Object.entries(vqaData(this.task.model, batch, shares[i])).map(([name, part]) => [`${i}.${name}`, part] as const),
    );
    return { lr: { data: [lr], shape: [] }, dropout: { data: [key], shape: [], dtype: 'u32' }, ...Object.fromEntries(parts) };
  }

  /** A step on the device. @returns the optimiser's numbers, the loss and its parts */
  private compute({ lr, dropout: key, ...parts }: StepInputs): Tensor {
    const dropout = new Dropout(key);
    const losses = Array.from({ length: this.settings.accumulate }, (_, i) => {
      const own = Object.entries(parts).filter(([name]) => name.startsWith(`${i}.`));
      const named = own.map(([name, tensor]) => [name.slice(name.indexOf('.') + 1), tensor]);
      return this.gradients(Object.fromEntries(named) as VqaInputs, dropout);
    });
    this.parts = PARTS.filter((name) => losses[0][name]);
    const sums = (['total', ...this.parts] as const).map((name) => losses.map((l) => l[name]!).reduce(add));
    return this.optimiser.step(lr, sums[0], sums);
  }

  /** One batch's share of the loss, with its gradients added to the parameters. */
  private gradients(inputs: VqaInputs, dropout: Dropout): LossParts {
    return scope(() => {
      const { checkpointing } = this.settings;
      const { total, kl, layer, ce } = this.task.loss(inputs, { dropout, checkpointing });
      backward(total);
      const detached = (t: Tensor | null) => t?.detach() ?? null;
      return { total: total.detach(), kl: detached(kl), layer: detached(layer), ce: detached(ce) };
    });
  }

  private async settleAll(onStep: RunOptions['onStep']): Promise<void> {
    while (this.waiting.length > 0) await this.settle(onStep);
  }

  /** Waits for the oldest step's numbers. */
  private async settle(onStep: RunOptions['onStep']): Promise<void> {
    const { values, names, report } = this.waiting.shift()!;
    const [gradNorm, , finite, loss, ...rest] = Array.from(await values);
    const skipped = finite === 0;
    this.state.tokens += report.tokens;
    this.state.skippedInARow = skipped ? this.state.skippedInARow + 1 : 0;
    if (skipped) this.state.skipped++;
    const now = performance.now();
    const milliseconds = now - this.last;
    this.last = now;
    const parts = Object.fromEntries(names.map((name, i) => [name, rest[i]]));
    await onStep?.({ ...report, loss, ...parts, gradNorm, skipped, milliseconds });
    if (this.state.skippedInARow >= this.settings.maxSkipped) {
      throw new NumericError(await this.explain(report.step, loss));
    }
  }

  private async explain(step: number, loss: number): Promise<string> {
    const what = Number.isFinite(loss) ? `a gradient is not finite (the loss is ${loss})` : `the loss is ${loss}`;
    const cause = await nonFiniteParameter(this.task.model);
    return (
      `step ${step}: ${what}, ${this.state.skippedInARow} steps in a row; ${cause ?? 'all weights are finite'}. ` +
      'The run was stopped; lower the learning rate or resume from the last checkpoint'
    );
  }
}

/** Names the first parameter that holds NaN or infinity; null when all are finite. */
export async function nonFiniteParameter(model: MaTVLM): Promise<string | null> {
  for (const [name, tensor] of model.parameters) {
    const data = await hostFloats(tensor);
    const at = data.findIndex((x) => !Number.isFinite(x));
    if (at >= 0) return `weight "${name}" holds ${data[at]} at element ${at}`;
  }
  return null;
}
