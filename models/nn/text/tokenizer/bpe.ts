/** Byte pair encoding: of all neighbours that a merge joins, those of the earliest merge are joined first. */

/** A merge by ids: what stands left and right, and what they become. */
export type Merge = readonly [left: number, right: number, joined: number];

/** Far above any id, so that a pair of ids is one number. */
const STRIDE = 2 ** 24;

/** The merges of a vocabulary, the earliest first. */
export class Merges {
  private readonly ranks: ReadonlyMap<number, number>;
  private readonly joined: Int32Array;

  constructor(merges: readonly Merge[]) {
    this.ranks = new Map(merges.map(([left, right], rank) => [left * STRIDE + right, rank]));
    this.joined = Int32Array.from(merges, ([, , joined]) => joined);
  }

  /**
   * Joins the ids of a word's characters in place of `word` as long as a merge does.
   * @param word is written to
   */
  apply(word: number[]): number[] {
    const { length } = word;
    const next = Int32Array.from(word, (_, at) => at + 1);
    const previous = Int32Array.from(word, (_, at) => at - 1);
    const waiting = new Heap();
    const rankAt = (at: number) => (next[at] < length ? this.ranks.get(word[at] * STRIDE + word[next[at]]) : undefined);
    const offer = (at: number): void => {
      const rank = rankAt(at);
      if (rank !== undefined) waiting.push(rank * length + at);
    };
    for (let at = 0; at < length - 1; at++) offer(at);
    for (let key = waiting.pop(); key !== undefined; key = waiting.pop()) {
      const at = key % length;
      const joined = this.joined[(key - at) / length];
      // What waits may be gone, or have got another neighbour.
      const rank = word[at] < 0 ? undefined : rankAt(at);
      if (rank === undefined || this.joined[rank] !== joined) continue;
      const gone = next[at];
      word[at] = joined;
      word[gone] = -1;
      next[at] = next[gone];
      if (next[at] < length) previous[next[at]] = at;
      if (previous[at] >= 0) offer(previous[at]);
      offer(at);
    }
    return word.filter((id) => id >= 0);
  }
}

/** Numbers, of which the least comes first. */
class Heap {
  private readonly items: number[] = [];

  push(item: number): void {
    const { items } = this;
    let at = items.length;
    for (let above = (at - 1) >> 1; at > 0 && items[above] > item; at = above, above = (at - 1) >> 1) {
      items[at] = items[above];
    }
    items[at] = item;
  }

  pop(): number | undefined {
    const { items } = this;
    const [least] = items;
    const last = items.pop();
    if (last === undefined || items.length === 0) return least;
    let at = 0;
    for (let below = 1; below < items.length; below = 2 * at + 1) {
      if (below + 1 < items.length && items[below + 1] < items[below]) below++;
      if (items[below] >= last) break;
      items[at] = items[below];
      at = below;
    }
    items[at] = last;
    return least;
  }
}
