import { DTypeError } from '../../engine/errors.ts';
import { keep, scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { scalar, type Tensor } from '../../engine/tensor.ts';
import { adamwStep, cat, gradNorm, reshape, zerosLike } from '../../ops/index.ts';

export interface AdamWOptions {
  readonly betas: readonly [number, number];
  readonly eps: number;
  /** On tensors of two or more dimensions only: vectors and biases do not decay. */
  readonly weightDecay: number;
  /** Clip the global gradient norm here; 0 does not clip. */
  readonly clip: number;
}

interface Slot {
  readonly param: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
  /** f32 []: how often the parameter was updated. */
  readonly step: Tensor;
}

/** The state of a parameter that was not updated yet. */
function fresh(param: Tensor): Omit<Slot, 'param'> {
  return { m: zerosLike(param), v: zerosLike(param), step: scalar(param.backend, 0) };
}

/** What the optimiser owns of a slot. */
const stateOf = ({ m, v, step }: Slot): Tensor[] => [m, v, step];

/**
 * AdamW over named parameters. Moments, and how often each parameter was updated, live on the device with the
 * parameters: only there is known whether a step is taken.
 */
export class AdamW {
  private readonly slots = new Map<string, Slot>();

  /** @throws DTypeError for parameters that are not f32 */
  constructor(
    parameters: ReadonlyMap<string, Tensor>,
    private readonly options: AdamWOptions,
  ) {
    for (const param of parameters.values()) {
      if (param.dtype === 'f32') continue;
      throw new DTypeError(`AdamW: ${param} cannot be trained, f32 can; load the model with weights: 'f32'`);
    }
    // Should there be no room for one, those before it are freed.
    const slots = scope(() => [...parameters].map(([name, param]) => [name, { param, ...fresh(param) }] as const));
    for (const [name, slot] of slots) {
      for (const tensor of stateOf(slot)) keep(tensor);
      this.slots.set(name, slot);
    }
  }

  /**
   * Takes one step with the gradients that backward left, and frees them. A parameter without a gradient stays, and
   * its bias correction does not count the step. Nothing changes when a gradient, or the loss they are of, is not
   * finite.
   * All that differs from one step to the next is in tensors: a captured step can be replayed.
   * @param lr f32 []: the learning rate, at least 0
   * @param loss f32 of one element
   * @param beside more tensors of one element, to be read back with the result
   * @returns f32 [gradient norm before clipping, clip scale, 1 if the step was taken, …beside]
   * @throws OutOfMemoryError before anything changed
   */
  step(lr: Tensor, loss: Tensor, beside: readonly Tensor[] = []): Tensor {
    return noGrad(() =>
      scope(() => {
        const slots = [...this.slots.values()].filter((s) => s.param.grad);
        const [grads, counts] = [slots.map(({ param }) => param.grad!), slots.map(({ step }) => step)];
        const { stats, before } = gradNorm(grads, this.options.clip, { loss, counts });
        const result = cat([stats, ...beside.map((t) => reshape(t, [1]))], 0);
        const { betas, eps } = this.options;
        for (const [index, slot] of slots.entries()) {
          const weightDecay = slot.param.shape.length >= 2 ? this.options.weightDecay : 0;
          adamwStep({ ...slot, grad: grads[index], before: before!, index, stats, lr, betas, eps, weightDecay });
        }
        this.zeroGrad();
        return result;
      }),
    );
  }

  /** Frees the gradients of all parameters. */
  zeroGrad(): void {
    for (const { param } of this.slots.values()) {
      param.grad?.dispose();
      param.grad = null;
    }
  }

  /** The state by `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` and `<parameter>.step`, as torch names them. */
  tensors(): Map<string, Tensor> {
    const all = new Map<string, Tensor>();
    for (const [name, { m, v, step }] of this.slots) {
      all.set(`${name}.exp_avg`, m);
      all.set(`${name}.exp_avg_sq`, v);
      all.set(`${name}.step`, step);
    }
    return all;
  }

  dispose(): void {
    for (const slot of this.slots.values()) for (const tensor of stateOf(slot)) tensor.dispose();
  }
}
