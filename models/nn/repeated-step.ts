import type { Backend } from '../../engine/backend.ts';
import { type Capture, capture } from '../../engine/capture.ts';
import type { HostArray } from '../../engine/dtype.ts';
import { keep, scope } from '../../engine/scope.ts';
import { fromDataTogether, type Tensor, type TensorData, updateTogether } from '../../engine/tensor.ts';

/** What a step takes from the host, by name. */
export type StepData = Readonly<Record<string, TensorData>>;
export type StepInputs = Readonly<Record<string, Tensor>>;

interface Made {
  /** Names, shapes and dtypes of its inputs. */
  readonly key: string;
  readonly inputs: StepInputs;
  readonly capture: Capture<Tensor>;
}

/**
 * A function on a device that runs again and again on other data. The data of a run goes up in one transfer; a run on
 * data of the same names, shapes and dtypes as that of the run before is a replay of it. There is one capture at a time:
 * what it holds is freed before data of other shapes is worked on, and by `dispose`.
 */
export class RepeatedStep {
  private latest: Made | null = null;

  /** @param body uses nothing of its inputs on the host but their shapes, and uploads and reads back nothing */
  constructor(
    private readonly backend: Backend,
    private readonly body: (inputs: StepInputs) => Tensor,
  ) {}

  /** @returns what the function computed, when the device has: the run itself is enqueued at once */
  run(data: StepData): Promise<HostArray> {
    const key = keyOf(data);
    if (this.latest?.key === key) {
      const { inputs, capture } = this.latest;
      updateTogether(inputs, Object.fromEntries(Object.entries(data).map(([name, part]) => [name, part.data])));
      capture.replay();
    } else {
      this.dispose();
      this.latest = this.make(key, data);
    }
    return this.latest.capture.result.data();
  }

  private make(key: string, data: StepData): Made {
    return scope(() => {
      const inputs = fromDataTogether(this.backend, data);
      const made = capture(this.backend, () => this.body(inputs));
      for (const tensor of [...Object.values(inputs), made.result]) keep(tensor);
      return { key, inputs, capture: made };
    });
  }

  /** Frees what was captured. */
  dispose(): void {
    if (!this.latest) return;
    const { inputs, capture } = this.latest;
    this.latest = null;
    capture.result.dispose();
    capture.dispose();
    for (const tensor of Object.values(inputs)) tensor.dispose();
  }
}

function keyOf(data: StepData): string {
  return JSON.stringify(Object.entries(data).map(([name, { shape, dtype }]) => [name, shape, dtype]));
}
