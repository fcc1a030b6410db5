import { byteLength } from './dtype.ts';
import type { Storage, Tensor } from './tensor.ts';

interface Origin {
  readonly tensor: Tensor;
  readonly stack: string;
  /** The op that made it: frames need not tell, once they are bundled. */
  op: string | null;
}

/** Frames kept of a place: those of the op, who called it, and from where. */
const FRAMES = 6;
/** Frames looked at: those of a place, and the engine's own above them. */
const DEPTH = 20;

let tracked: Map<number, Origin> | null = null;

/** Called by every new tensor. */
export function noteMade(tensor: Tensor): void {
  tracked?.set(tensor.id, { tensor, stack: new Error().stack ?? '', op: null });
}

/** Called by `apply` for what an op put out. */
export function noteOp(op: string, outputs: readonly (Tensor | undefined)[]): void {
  if (!tracked) return;
  for (const output of outputs) {
    const origin = output && tracked.get(output.id);
    if (origin) origin.op = op;
  }
}

/** Called when a tensor is freed. */
export function noteFreed(tensor: Tensor): void {
  tracked?.delete(tensor.id);
}

/**
 * Runs `body` and reports the tensors it made and neither freed nor returned to a scope that did: one line for each
 * place in the code, with count and bytes, most bytes first. A place is the op, and six frames from there outward.
 * What several tensors share (`detach`, `reshape`) counts once, where the first of them was made. Slow: for development
 * and tests.
 */
export async function leakReport(body: () => void | Promise<void>): Promise<string[]> {
  const limits = Error as { stackTraceLimit?: number };
  const before = { tracked, limit: limits.stackTraceLimit };
  const own = (tracked = new Map<number, Origin>());
  limits.stackTraceLimit = DEPTH;
  try {
    await body();
  } finally {
    tracked = before.tracked;
    limits.stackTraceLimit = before.limit;
  }
  const places = new Map<string, { count: number; bytes: number; example: Tensor }>();
  const counted = new Set<Storage>();
  for (const { tensor, stack, op } of own.values()) {
    const place = `${op ? `by ${op} ` : ''}at ${placeOf(stack)}`;
    const entry = places.get(place) ?? { count: 0, bytes: 0, example: tensor };
    places.set(place, entry);
    entry.count++;
    if (!counted.has(tensor.storage)) entry.bytes += byteLength(tensor.dtype, tensor.size);
    counted.add(tensor.storage);
  }
  return [...places]
    .sort(([, a], [, b]) => b.bytes - a.bytes)
    .map(([place, { count, bytes, example }]) => `${count} live, ${bytes} bytes, such as ${example}, made ${place}`);
}

const MAKERS = '_?Tensor|noteMade|empty|fromData(?:Together)?|apply|detach|alias';
/** What makes every tensor, by the names in frames: a bundler may put a `_` before a class and a number after. */
const OWN = new RegExp(`^(?:at )?(?:new )?(?:_?Tensor\\d*\\.)?(?:${MAKERS})\\d*(?: \\(|@)`);

/** The innermost frames outside the engine's own constructors. */
function placeOf(stack: string): string {
  const frames = stack.split('\n').map((line) => line.trim()).filter((line) => /^at |@/.test(line));
  const first = frames.findIndex((frame) => !OWN.test(frame));
  if (first < 0) return 'somewhere';
  const end = frames.findIndex((frame) => /^(?:at )?(?:async )?leakReport\d*(?: \(|@)/.test(frame));
  const shown = frames.slice(first, Math.min(first + FRAMES, end < 0 ? Infinity : end));
  return shown.map((frame) => frame.replace(/^at /, '')).join(' < ');
}
