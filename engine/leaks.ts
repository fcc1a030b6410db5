import type { Tensor } from './tensor.ts';

interface Origin {
  readonly tensor: Tensor;
  readonly stack: string;
}

let tracked: Map<number, Origin> | null = null;

/** Called by every new tensor. */
export function noteMade(tensor: Tensor): void {
  tracked?.set(tensor.id, { tensor, stack: new Error().stack ?? '' });
}

/** Called when a tensor is freed. */
export function noteFreed(tensor: Tensor): void {
  tracked?.delete(tensor.id);
}

/**
 * Runs `body` and reports the tensors it made and neither freed nor returned to a scope that did: one line for each
 * place in the code, with count and bytes, most bytes first. Slow: for development and tests.
 */
export async function leakReport(body: () => void | Promise<void>): Promise<string[]> {
  const before = tracked;
  const own = new Map<number, Origin>();
  tracked = own;
  try {
    await body();
  } finally {
    tracked = before;
  }
  const places = new Map<string, { count: number; bytes: number; example: Tensor }>();
  for (const { tensor, stack } of own.values()) {
    const place = caller(stack);
    const entry = places.get(place) ?? { count: 0, bytes: 0, example: tensor };
    places.set(place, { count: entry.count + 1, bytes: entry.bytes + tensor.size * 4, example: entry.example });
  }
  return [...places]
    .sort(([, a], [, b]) => b.bytes - a.bytes)
    .map(([place, { count, bytes, example }]) => `${count} live, ${bytes} bytes, such as ${example}, made ${place}`);
}

/** The innermost frame outside the engine's own constructors. */
function caller(stack: string): string {
  const frames = stack.split('\n').slice(1).map((line) => line.trim());
  return frames.find((f) => !/noteMade|new Tensor|\bempty\b|\bapply1?\b|fromData|\balias\b/.test(f)) ?? 'somewhere';
}
