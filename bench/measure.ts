import { Bench } from 'tinybench';
import { KernelError } from '../engine/errors.ts';

/** How long a case is warmed up and timed, in milliseconds. */
export interface Budget {
  /** Clocks of an idle GPU need some 400 ms of load to rise. */
  readonly warm: number;
  readonly time: number;
  /** Samples at least. */
  readonly samples: number;
  /** A sample holds as many calls as take this long, so that one wait for the device counts little. */
  readonly sample: number;
  /** Calls in a sample at most. */
  readonly calls: number;
}

/** Milliseconds a call. */
export interface Timing {
  readonly median: number;
  readonly p75: number;
  readonly p99: number;
  /** Median absolute deviation as a share of the median. */
  readonly spread: number;
  readonly samples: number;
  /** Calls in each sample. */
  readonly calls: number;
}

/** Runs `n` calls and waits for the device. */
export type Batch = (n: number) => Promise<void>;

/** Times `batch` by tinybench after a warm-up that also finds how many calls make a sample. */
export async function measure(name: string, batch: Batch, budget: Budget): Promise<Timing> {
  const calls = await warmUp(batch, budget);
  const bench = new Bench({ warmup: false, time: budget.time, iterations: budget.samples, throws: true });
  const task = async () => {
    const elapsed = await clock(batch, calls);
    return { overriddenDuration: elapsed / calls, overriddenIterationCost: elapsed };
  };
  bench.add(name, task, { async: true });
  await bench.run();
  const { result } = bench.tasks[0];
  if (result.state !== 'completed') throw new KernelError(`bench: "${name}" did not finish (${result.state})`);
  const { p50, p75, p99, mad, samplesCount } = result.latency;
  return { median: p50, p75, p99, spread: mad / p50, samples: samplesCount, calls };
}

/** Calls until the budget's warm-up is over and a batch takes as long as a sample should; the calls of that batch. */
async function warmUp(batch: Batch, { warm, sample, calls }: Budget): Promise<number> {
  let n = 1;
  // The first call compiles and allocates: it says nothing.
  await batch(1);
  const start = performance.now();
  for (;;) {
    const elapsed = await clock(batch, n);
    const next = Math.max(1, Math.min(calls, 10 * n, Math.round((n * sample) / Math.max(elapsed, 1e-3))));
    if (performance.now() - start >= warm && next <= 2 * n) return next;
    n = next;
  }
}

async function clock(batch: Batch, n: number): Promise<number> {
  const start = performance.now();
  await batch(n);
  return performance.now() - start;
}
