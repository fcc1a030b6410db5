import { cut } from './excerpt.ts';

/**
 * Every error a user can cause is one of these: it names the thing, says what was expected and what to do.
 * The command line prints `message` alone; a stack trace is only for `--debug`. However much a message quotes of a
 * hostile input, it is cut to `room` UTF-16 units.
 */
export class MatvlmError extends Error {
  protected static readonly room: number = 4000;

  constructor(message: string, options?: ErrorOptions) {
    super(cut(message, new.target.room), options);
    this.name = new.target.name;
  }
}

/** Shapes that do not fit an op: names the op, the argument and both shapes. */
export class ShapeError extends MatvlmError {}

/** A dtype that an op or a file does not take. */
export class DTypeError extends MatvlmError {}

/** An argument or option out of its range. */
export class ArgumentError extends MatvlmError {}

/** A tensor used after it was freed, or freed twice; names the tensor. */
export class DisposedError extends MatvlmError {}

/** A kernel that failed to compile or to run; carries the numbered source. */
export class KernelError extends MatvlmError {
  protected static override readonly room = Infinity;
}

/** The GPU device went away; `reason` is the browser's word for it. */
export class DeviceLostError extends MatvlmError {}

/** No adapter, or a feature or limit is missing: names need and limit. */
export class DeviceError extends MatvlmError {}

/** An allocation that cannot be met: names need and limit. */
export class OutOfMemoryError extends MatvlmError {}

/** A safetensors file or checkpoint folder that is broken; names file and byte or key. */
export class CheckpointError extends MatvlmError {}

/** The operating system refused: full disk, read-only folder, port in use; names path and cause. */
export class SystemError extends MatvlmError {}
