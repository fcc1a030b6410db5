import type { Backend } from '../../engine/backend.ts';
import { type AnyOp, definedOps } from '../../engine/op.ts';
import { Profiler } from '../../engine/profiler.ts';
import * as ops from '../../ops/index.ts';
import { ROWS } from '../cases/index.ts';
import { resultsOf } from './agree.ts';
import { Inputs } from './inputs.ts';

const FALLBACK = ' (fallback)';

/** The names of all ops that there are. Naming every export keeps a bundler from leaving any out. */
export function opNames(): string[] {
  if (Object.keys(ops).length === 0) throw new Error('ops/index.ts exports nothing');
  const names = new Set(definedOps().map(({ name }) => name));
  return [...names].sort();
}

/** Notes from now on the names of the ops that a backend is given. */
export function watch(backend: Backend): ReadonlySet<string> {
  const seen = new Set<string>();
  const dispatch = backend.dispatch.bind(backend);
  backend.dispatch = (plan, buffers) => {
    seen.add((plan as { op: AnyOp }).op.name);
    dispatch(plan, buffers);
  };
  return seen;
}

/** Runs every case of every op, gradients included. */
export async function runCases(backend: Backend): Promise<void> {
  for (const { cases = [] } of Object.values(ROWS)) {
    for (const [sizes, run] of cases) await resultsOf(new Inputs(backend), run, sizes);
  }
}

/**
 * Which ops a WASM backend runs by a C kernel, and which by the reference loops, as seen while it runs all cases. The
 * reference runs all by its loops, WebGPU all by WGSL.
 */
export async function supportTable(backend: Backend): Promise<string> {
  backend.profiler = new Profiler();
  await runCases(backend);
  const ran = new Set(backend.profiler.rows().map(({ name }) => name));
  backend.profiler = null;
  const rows = opNames().map((op) => {
    const [kernel, loops] = [ran.has(op), ran.has(op + FALLBACK)];
    const wasm = kernel && loops ? 'C kernel, loops for some shapes' : kernel ? 'C kernel' : 'loops (fallback)';
    return `| ${op} | loops | WGSL | ${wasm} |`;
  });
  return ['| op | reference | webgpu | wasm |', '|---|---|---|---|', ...rows].join('\n');
}
