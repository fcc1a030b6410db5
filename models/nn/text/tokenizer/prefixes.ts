import type { Effort } from './effort.ts';

/** Texts that begin where one stands in another: a sorted list, narrowed character by character. */
export class Prefixes {
  private readonly sorted: readonly string[];

  constructor(texts: Iterable<string>) {
    this.sorted = [...new Set(texts)].filter((text) => text !== '').sort((a, b) => (a < b ? -1 : 1));
  }

  /** Those that `text` holds at `at`, shortest first. */
  at(text: string, at: number, effort: Effort): string[] {
    const found: string[] = [];
    let [low, high] = [0, this.sorted.length];
    for (let depth = 0; at + depth < text.length; depth++) {
      const unit = text.charCodeAt(at + depth);
      low = this.bound(low, high, depth, unit);
      high = this.bound(low, high, depth, unit + 1);
      effort.spend(4);
      if (low === high) break;
      if (this.sorted[low].length === depth + 1) found.push(this.sorted[low++]);
    }
    return found;
  }

  /** The first of those between whose unit at `depth` is `unit` or more. */
  private bound(low: number, high: number, depth: number, unit: number): number {
    let [a, b] = [low, high];
    while (a < b) {
      const middle = (a + b) >> 1;
      if (this.sorted[middle].charCodeAt(depth) < unit) a = middle + 1;
      else b = middle;
    }
    return a;
  }
}
