import { keep, scope } from '../../../engine/scope.ts';
import { noGrad } from '../../../engine/tape.ts';
import { fromData, type Tensor } from '../../../engine/tensor.ts';
import { adamwStep, gradNorm, zerosLike } from '../../../ops/index.ts';

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
}

/** AdamW over named parameters; the moments live on the device with the parameters. */
export class AdamW {
  /** Steps counted, skipped ones too: what the bias correction goes by. */
  steps = 0;
  private readonly slots = new Map<string, Slot>();

  constructor(
    parameters: ReadonlyMap<string, Tensor>,
    private readonly options: AdamWOptions,
  ) {
    // Should there be no room for one, those before it are freed.
    const slots = scope(() => [...parameters].map(([name, param]) => ({ name, param, m: zerosLike(param), v: zerosLike(param) })));
    for (const { name, param, m, v } of slots) this.slots.set(name, { param, m: keep(m), v: keep(v) });
  }

  /**
   * Takes one step with the gradients that backward left, and frees them. A parameter without a gradient stays.
   * Nothing changes when a gradient, or the loss they are of, is not finite.
   * @param loss f32 of one element
   * @returns f32 [gradient norm before clipping, clip scale, 1 if the step was taken]
   */
  step(lr: number, loss: Tensor): Tensor {
    this.steps++;
    return noGrad(() =>
      scope(() => {
        const slots = [...this.slots.values()].filter((s) => s.param.grad);
        const stats = gradNorm(slots.map((s) => s.param.grad!), this.options.clip, loss);
        const hyper = fromData(stats.backend, this.hyper(lr), [6]);
        for (const { param, m, v } of slots) {
          const weightDecay = param.shape.length >= 2 ? this.options.weightDecay : 0;
          adamwStep({ param, grad: param.grad!, m, v, hyper, stats, weightDecay });
          param.grad!.dispose();
          param.grad = null;
        }
        return stats;
      }),
    );
  }

  private hyper(lr: number): number[] {
    const [beta1, beta2] = this.options.betas;
    return [lr, beta1, beta2, this.options.eps, 1 - beta1 ** this.steps, 1 - beta2 ** this.steps];
  }

  /** The moments by `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, as torch names them. */
  tensors(): Map<string, Tensor> {
    const all = new Map<string, Tensor>();
    for (const [name, { m, v }] of this.slots) {
      all.set(`${name}.exp_avg`, m);
      all.set(`${name}.exp_avg_sq`, v);
    }
    return all;
  }

  dispose(): void {
    for (const { m, v } of this.slots.values()) {
      m.dispose();
      v.dispose();
    }
  }
}
