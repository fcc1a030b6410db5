import { type Backend, elements } from '../../engine/backend.ts';
import type { DType, HostArray } from '../../engine/dtype.ts';
import { keep, scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import type { Make, Run, Sizes } from '../cases/case.ts';

/** Numbers in [−scale/2, scale/2) + shift from a fixed sequence. */
export function random(size: number, seed: number, scale = 2, shift = 0): Float32Array {
  let state = seed * 2654435761 + 12345;
  return Float32Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32 - 0.5) * scale + shift;
  });
}

/** Random numbers repeat after so many. */
const NOISE = 2 ** 18;

/** The inputs of one call: made when it is run first, and the same tensors from then on. */
export class Inputs {
  /** Those that get a gradient, where any do. */
  readonly leaves: Tensor[] = [];
  private readonly made: Tensor[] = [];
  private readonly given: Tensor[] = [];
  private readonly grads: Tensor[] = [];
  private next = 0;
  private readonly make: Make;
  /** Gives what was made, in order: a call that is timed pays for no more. */
  private readonly again: Make;

  /** @param gradients whether any are wanted */
  constructor(readonly backend: Backend, private readonly gradients = true) {
    const kinds = {
      leaf: (data: HostArray, shape: readonly number[]) => this.leaf(data, shape),
      of: (f: (v: number) => number, ...shape: number[]) => this.leaf(this.noise(shape).map(f), shape),
      stored: (format: DType, ...shape: number[]) => this.own(this.noise(shape), shape, format),
      fixed: (...shape: number[]) => this.own(this.noise(shape), shape),
      ids: (most: number, ...shape: number[]) =>
        this.own(Int32Array.from(this.noise(shape), (v) => Math.floor(((v + 1) / 2) * most)), shape, 'i32'),
      values: (data: ArrayLike<number>, shape: readonly number[] = [data.length], dtype: DType = 'f32') =>
        this.own(data as number[], shape, dtype),
    };
    const makeBy = (wrap: (make: (...given: never[]) => Tensor) => () => Tensor) => {
      const made = Object.entries(kinds).map(([kind, make]) => [kind, wrap(make)]);
      const leaf = wrap((...shape: number[]) => this.leaf(this.noise(shape), shape));
      return Object.assign(leaf, { backend }, Object.fromEntries(made)) as Make;
    };
    this.make = makeBy((make) => (...given) => (this.given[this.given.length] = make(...given)));
    this.again = makeBy(() => () => this.given[this.next++]);
  }

  /** What a call gives for these inputs. */
  run(run: Run, sizes: Sizes = {}): Tensor[] {
    this.next = 0;
    const outputs = run(this.given.length === 0 ? this.make : this.again, sizes);
    return Array.isArray(outputs) ? outputs : [outputs as Tensor];
  }

  /** What a function of new inputs gives; frees those. */
  call<T>(use: (t: Make) => T): T {
    try {
      return scope(() => use(this.make));
    } finally {
      this.dispose();
    }
  }

  /** The gradient that the i-th output is given. */
  gradientOf({ size, shape }: Tensor, i: number): Tensor {
    return (this.grads[i] ??= this.own(random(size, i + 101), shape));
  }

  dispose(): void {
    for (const tensor of this.made) {
      tensor.grad?.dispose();
      tensor.dispose();
    }
  }

  /** An input that is to have a gradient. */
  protected leaf(data: HostArray, shape: readonly number[], dtype: DType = 'f32'): Tensor {
    const tensor = this.own(data, shape, dtype);
    if (!this.gradients) return tensor;
    tensor.requiresGrad = true;
    this.leaves.push(tensor);
    return tensor;
  }

  protected own(data: readonly number[] | HostArray, shape: readonly number[], dtype: DType = 'f32'): Tensor {
    const tensor = keep(fromData(this.backend, data, shape, dtype));
    this.made.push(tensor);
    return tensor;
  }

  protected noise(shape: readonly number[]): Float32Array {
    const data = new Float32Array(elements(shape));
    const noise = random(Math.min(NOISE, data.length), this.made.length + 1);
    for (let at = 0; at < data.length; at += NOISE) data.set(noise.subarray(0, data.length - at), at);
    return data;
  }
}
