import { expectWhole } from '../../engine/arguments.ts';
import { mix } from '../../ops/elementwise/random.ts';

/** Everything a generator is; plain JSON, so that a training run can be resumed exactly. */
export interface RandomState {
  readonly words: readonly [number, number, number, number];
  /** The second of a pair of normal numbers, not yet given out. */
  readonly spare: number | null;
}

type Words = [number, number, number, number];

const rotate = (x: number, k: number) => (x << k) | (x >>> (32 - k));

/** splitmix32: four words of a 32-bit seed that are never all zero. */
function spread(seed: number): Words {
  const next = () => mix((seed = (seed + 0x9e3779b9) | 0));
  return [next(), next(), next(), next()];
}

/**
 * Four words in which each word of the key bears on each. Every round adds to one word what the one before it mixes
 * to, which can be undone: two keys never give the same words.
 */
function scatter(key: Words): Words {
  const w: Words = [...key];
  for (let round = 0; round < 16; round++) w[round & 3] ^= mix((w[(round + 3) & 3] + (round + 1) * 0x9e3779b9) | 0);
  // Nothing but zeros would be drawn from zeros.
  return w.some((word) => word !== 0) ? w : spread(0);
}

const low = (n: number) => n | 0;
const high = (n: number) => Math.floor(n / 2 ** 32) | 0;
/** What a stream's index never has above its 32 low bits: sets seeds apart from streams. */
const NO_INDEX = 0x40000000;

/**
 * A seeded generator: xoshiro128** (Blackman and Vigna). Uses only operations whose results are exact everywhere, so a
 * seed gives the same numbers in every engine on every platform.
 */
export class Random {
  private words: Words;
  private spare: number | null = null;

  /**
   * @param seed a whole number from 0 to 2⁵³ - 1
   * @throws ArgumentError for any other number
   */
  constructor(seed: number) {
    expectWhole('Random', 'seed', seed, 0, Number.MAX_SAFE_INTEGER);
    this.words = seed < 2 ** 32 ? spread(seed) : scatter([low(seed), high(seed), 0, NO_INDEX]);
  }

  /**
   * One of many generators of a seed, e.g. one an epoch: the same numbers whatever was drawn before, and others than
   * those of any other seed or index.
   * @throws ArgumentError unless both are whole numbers from -(2⁵³ - 1) to 2⁵³ - 1
   */
  static stream(seed: number, index: number): Random {
    for (const [name, value] of Object.entries({ seed, index })) {
      expectWhole('Random.stream', name, value, -Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
    }
    const random = new Random(0);
    random.words = scatter([low(seed), high(seed), low(index), high(index)]);
    return random;
  }

  state(): RandomState {
    return { words: [...this.words], spare: this.spare };
  }

  /** Goes on where the generator that gave `state` was. */
  restore(state: RandomState): void {
    this.words = [...state.words];
    this.spare = state.spare;
  }

  /** A uniform integer in [0, 2³²). */
  u32(): number {
    const w = this.words;
    const result = Math.imul(rotate(Math.imul(w[1], 5), 7), 9) >>> 0;
    const t = w[1] << 9;
    w[2] ^= w[0];
    w[3] ^= w[1];
    w[1] ^= w[2];
    w[0] ^= w[3];
    w[2] ^= t;
    w[3] = rotate(w[3], 11);
    return result;
  }

  private u53(): number {
    return (this.u32() >>> 5) * 2 ** 26 + (this.u32() >>> 6);
  }

  /** A uniform number in [low, high), with 53 random bits. */
  uniform(low = 0, high = 1): number {
    return low + (high - low) * (this.u53() / 2 ** 53);
  }

  /** A normal number, by Marsaglia's polar method. */
  normal(mean = 0, deviation = 1): number {
    let z = this.spare;
    this.spare = null;
    while (z === null) {
      const u = this.uniform(-1, 1);
      const v = this.uniform(-1, 1);
      const s = u * u + v * v;
      if (s >= 1 || s === 0) continue;
      const scale = Math.sqrt((-2 * exactLog(s)) / s);
      z = u * scale;
      this.spare = v * scale;
    }
    return mean + deviation * z;
  }

  /** A uniform integer in [0, n), without bias. @throws ArgumentError unless n is a whole number from 1 to 2⁵³ - 1 */
  integer(n: number): number {
    expectWhole('Random.integer', 'n', n, 1, Number.MAX_SAFE_INTEGER);
    const range = n <= 2 ** 32 ? 2 ** 32 : 2 ** 53;
    const limit = range - (range % n);
    for (;;) {
      const bits = n <= 2 ** 32 ? this.u32() : this.u53();
      if (bits < limit) return bits % n;
    }
  }

  /** Shuffles `items` in place (Fisher and Yates) and returns it. */
  shuffle<T extends { length: number; [index: number]: unknown }>(items: T): T {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      const item = items[i];
      items[i] = items[j];
      items[j] = item;
    }
    return items;
  }
}

/**
 * Natural logarithm of a number in (0, 1) by +, ×, ÷ alone: Math.log may differ in its last bit between engines. Takes
 * out powers of two, then log m = 2·artanh((m - 1)/(m + 1)).
 */
function exactLog(x: number): number {
  let exponent = 0;
  while (x < Math.SQRT1_2) {
    x *= 2;
    exponent--;
  }
  const t = (x - 1) / (x + 1);
  const square = t * t;
  let sum = 0;
  for (let k = 23; k >= 1; k -= 2) sum = sum * square + 1 / k;
  return 2 * t * sum + exponent * Math.LN2;
}
