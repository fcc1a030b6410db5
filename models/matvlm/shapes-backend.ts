import { type Backend, MemoryStats } from '../../engine/backend.ts';
import { ArgumentError } from '../../engine/errors.ts';

const refuse = (): never => {
  throw new ArgumentError('this model has shapes only; load it on a backend to run it');
};

/** A backend that holds no data: a model on it has names, shapes and dtypes alone, whatever its size. */
export class ShapesBackend implements Backend<null, never> {
  readonly kind = 'shapes';
  readonly description = 'shapes without data';
  readonly memory = new MemoryStats();
  readonly profiler = null;
  readonly write = refuse;
  readonly read = refuse;
  readonly plan = refuse;
  readonly dispatch = refuse;
  readonly record = refuse;

  alloc(): null {
    return null;
  }

  free(): void {}

  async sync(): Promise<void> {}

  dispose(): void {}
}
