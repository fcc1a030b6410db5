import type { Backend } from '../engine/backend.ts';
import { Profiler } from '../engine/profiler.ts';
import type { Device } from './devices.ts';
import type { Batch } from './measure.ts';
import { modelCases } from './model-cases.ts';
import { align, duration, type StepProfile } from './results.ts';

/** Steps before those that are profiled: the first compile and fill the pools. */
const WARM = 3;
/** How long steps are profiled, and how many at least; the median is told: where a context ends, a step does nothing. */
const PROFILE_MS = 300;
const LEAST = 3;

/** The profiler's account of one training, distillation and decoding step each. */
export async function profileSteps({ backend, class: own }: Device): Promise<StepProfile[]> {
  const profiles: StepProfile[] = [];
  for (const step of modelCases(own.images, own.questions)) {
    if (step.unit === 'prompts/s') continue;
    const { run, close } = await step.open(backend);
    await run(WARM);
    const taken: StepProfile[] = [];
    for (const start = performance.now(); taken.length < LEAST || performance.now() - start < PROFILE_MS; ) {
      taken.push({ step: step.name, backend: own.label, ...(await profileOne(backend, run)) });
    }
    profiles.push(taken.sort((a, b) => a.wall - b.wall)[taken.length >> 1]);
    close();
  }
  return profiles;
}

async function profileOne(backend: Backend, run: Batch): Promise<Pick<StepProfile, 'wall' | 'ops'>> {
  await backend.sync();
  const profiler = (backend.profiler = new Profiler());
  const start = performance.now();
  await run(1);
  await backend.sync();
  const wall = performance.now() - start;
  backend.profiler = null;
  return { wall, ops: profiler.rows() };
}

/** A table for people: ops with the dearest first; what is below a hundredth is added up. */
export function profileTable({ step, backend, wall, ops }: StepProfile): string {
  const total = ops.reduce((sum, op) => sum + op.ms, 0);
  const shown = ops.filter((op) => op.ms >= 0.01 * total);
  const rest = ops.slice(shown.length);
  const sum = (key: 'calls' | 'ms' | 'bytes') => rest.reduce((all, op) => all + op[key], 0);
  const rows = rest.length > 0 ? [...shown, { name: `${rest.length} others`, calls: sum('calls'), ms: sum('ms'), bytes: sum('bytes') }] : shown;
  const lines = rows.map((op) => [
    op.name,
    String(op.calls),
    duration(op.ms),
    `${((100 * op.ms) / (total || 1)).toFixed(1)}%`,
    op.ms > 0 ? (op.bytes / 1e6 / op.ms).toFixed(1) : '–',
  ]);
  const head = `${backend}: ${step}: ${duration(total).trim()} in ops of ${duration(wall).trim()} in all`;
  return `${head}\n${align([['op', 'calls', 'time', 'share', 'GB/s'], ...lines], 1)}`;
}
