import type { Profiler } from '../profiler.ts';

interface Call {
  readonly name: string;
  readonly bytes: number;
  readonly run: () => void;
}

/** What a backend that runs ops at once has run, to be run again. */
export class RecordedCalls {
  private readonly calls: Call[] = [];

  /** @param bytes that it moves at the least, for the profiler */
  add(name: string, bytes: number, run: () => void): void {
    this.calls.push({ name, bytes, run });
  }

  replay(profiler: Profiler | null): void {
    for (const { name, bytes, run } of this.calls) {
      const start = profiler ? performance.now() : 0;
      run();
      profiler?.add(name, performance.now() - start, bytes);
    }
  }
}
