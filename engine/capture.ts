import type { Backend, Recording } from './backend.ts';
import { ArgumentError } from './errors.ts';
import { scope } from './scope.ts';
import { Storage, type Tensor } from './tensor.ts';

let current: Capture<unknown> | null = null;

/** Called for every operand of an op. */
export function noteUse(tensor: Tensor): void {
  current?.use(tensor.storage);
}

/**
 * What a function did on a device, to be done again without it: its dispatches, with the buffers that they were on.
 * `result` is what the function returned; its tensors hold what the latest replay computed. Whatever should differ from
 * one replay to the next (a batch, a position, a rate, a seed) must be data in tensors that are written in between.
 */
export class Capture<T> {
  /** What the function returned. */
  readonly result: T;
  private recording: Recording | null;
  private readonly held = new Set<Storage>();
  private readonly begin = Storage.made;

  /** See `capture`. */
  constructor(private readonly backend: Backend, body: () => T) {
    if (current) throw new ArgumentError('capture: another capture is being made; end it first');
    const end = backend.record();
    current = this;
    let done = false;
    try {
      this.result = scope(body);
      done = true;
    } finally {
      current = null;
      this.recording = end();
      if (!done) this.dispose();
    }
  }

  /**
   * Keeps what was there before from being freed; the recording keeps the buffers that are made meanwhile.
   * @throws ArgumentError for what is on another device, which no replay would come to
   */
  use(storage: Storage): void {
    if (storage.backend !== this.backend) throw new ArgumentError('capture: an op runs on another device; do it outside');
    if (storage.serial < this.begin && !this.held.has(storage)) this.held.add(storage.retain());
  }

  /** Does it all again, in the same order on the same buffers. @throws ArgumentError after `dispose` */
  replay(): void {
    if (!this.recording) throw new ArgumentError('capture: it was disposed; capture the function again');
    if (current) throw new ArgumentError('capture: a capture is replayed inside, which no replay would do; do it outside');
    this.recording.replay();
  }

  /** Frees what only it holds. Tensors of `result` that are still held are tensors like any other from now on. */
  dispose(): void {
    for (const storage of this.held) storage.release();
    this.held.clear();
    this.recording?.dispose();
    this.recording = null;
  }
}

/**
 * Runs `body` once and records what it dispatches. Its tensors are in a scope; those that it returns go to the
 * enclosing one, as `scope` has it.
 * @throws ArgumentError where `body` reads a tensor back or uploads one: neither would happen again in a replay
 */
export function capture<T>(backend: Backend, body: () => T): Capture<T> {
  return new Capture(backend, body);
}
