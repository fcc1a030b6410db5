import type { Backend } from '../../engine/backend.ts';
import type { HostArray } from '../../engine/dtype.ts';
import { type AnyOp, definedOps } from '../../engine/op.ts';
import { Profiler } from '../../engine/profiler.ts';
import { scope } from '../../engine/scope.ts';
import { backwardFrom } from '../../engine/tape.ts';
import { fromData } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { random } from './agree.ts';
import { readOpCases, replayOp } from './golden-ops.ts';
import { readTensors } from './golden-types.ts';
import { type MoreCase, moreCases } from './more-cases.ts';

const FALLBACK = ' (fallback)';

/** The names of all ops that there are. Naming every export keeps a bundler from leaving any out. */
export function opNames(): string[] {
  if (Object.keys(ops).length === 0) throw new Error('ops/index.ts exports nothing');
  const names = new Set(definedOps().map(({ name }) => name));
  return [...names].sort();
}

/** Outputs and gradients of a case. */
export async function runCase(backend: Backend, { inputs, differentiable, run }: MoreCase): Promise<HostArray[]> {
  const made = scope(() => {
    const tensors = inputs.map(({ data, shape, dtype }) => fromData(backend, data, shape, dtype));
    for (const tensor of tensors) tensor.requiresGrad = differentiable;
    const outputs = run(tensors, backend);
    const roots = outputs.filter((y) => y.requiresGrad && y.dtype === 'f32');
    const grads = roots.map((y, i) => fromData(backend, random(y.size, i + 101), y.shape));
    backwardFrom(roots, grads, ops.add);
    return [...outputs.map((y) => y.detach()), ...tensors.flatMap((t) => (t.grad ? [t.grad.detach()] : []))];
  });
  const data = await Promise.all(made.map((tensor) => tensor.data()));
  for (const tensor of made) tensor.dispose();
  return data;
}

/** Runs the golden cases of a folder and `moreCases`. @returns names of the ops that the backend was given */
export async function runAll(backend: Backend, folder: string): Promise<string[]> {
  const seen = new Set<string>();
  const dispatch = backend.dispatch.bind(backend);
  backend.dispatch = (plan, buffers) => {
    seen.add((plan as { op: AnyOp }).op.name);
    dispatch(plan, buffers);
  };
  const tensors = await readTensors(folder, 'tensors');
  for (const op of readOpCases(folder)) await replayOp(backend, op, tensors);
  for (const one of moreCases) await runCase(backend, one);
  backend.dispatch = dispatch;
  return [...seen].sort();
}

/**
 * Which ops a WASM backend runs by a C kernel, and which by the reference loops, as seen while it runs all cases. The
 * reference runs all by its loops, WebGPU all by WGSL.
 */
export async function supportTable(backend: Backend, folder: string): Promise<string> {
  backend.profiler = new Profiler();
  await runAll(backend, folder);
  const ran = new Set(backend.profiler.rows().map(({ name }) => name));
  backend.profiler = null;
  const rows = opNames().map((op) => {
    const [kernel, loops] = [ran.has(op), ran.has(op + FALLBACK)];
    const wasm = kernel && loops ? 'C kernel, loops for some shapes' : kernel ? 'C kernel' : 'loops (fallback)';
    return `| ${op} | loops | WGSL | ${wasm} |`;
  });
  return ['| op | reference | webgpu | wasm |', '|---|---|---|---|', ...rows].join('\n');
}
