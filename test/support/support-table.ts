import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { Profiler } from '../../engine/profiler.ts';
import { readOpCases, replayOp } from './golden-ops.ts';
import { readTensors } from './golden-types.ts';

const FALLBACK = ' (fallback)';

/** Ops that only set up or collect a case. */
const SCAFFOLD = new Set(['fill', 'copy']);

/**
 * Which ops the WASM backend runs by a C kernel, and which by the reference loops, as seen while it replays the golden
 * cases. The reference runs all by its loops, WebGPU all by WGSL.
 */
export async function supportTable(folder: string): Promise<string> {
  const backend = await WasmBackend.create();
  backend.profiler = new Profiler();
  const tensors = await readTensors(folder, 'tensors');
  for (const op of readOpCases(folder)) await replayOp(backend, op, tensors);
  const seen = new Map<string, { kernel: boolean; loops: boolean }>();
  for (const { name } of backend.profiler.rows()) {
    const op = name.replace(FALLBACK, '');
    const entry = seen.get(op) ?? { kernel: false, loops: false };
    seen.set(op, entry);
    if (name.endsWith(FALLBACK)) entry.loops = true;
    else entry.kernel = true;
  }
  const rows = [...seen]
    .filter(([op]) => !SCAFFOLD.has(op))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([op, { kernel, loops }]) => {
      const wasm = kernel && loops ? 'C kernel, loops for some shapes' : kernel ? 'C kernel' : 'loops (fallback)';
      return `| ${op} | loops | WGSL | ${wasm} |`;
    });
  return ['| op | reference | webgpu | wasm |', '|---|---|---|---|', ...rows].join('\n');
}
