/**
 * Chris Doty-Humphrey's sfc32: integer arithmetic only, so the same numbers on every platform.
 * Seeded by three words, here set seed, stream and index, so that any sample can be made alone.
 */
export class Random32 {
  private a: number;
  private b: number;
  private c: number;
  private counter = 1;

  constructor(seed: number, stream: number, index: number) {
    this.a = seed | 0;
    this.b = stream | 0;
    this.c = index | 0;
    // The author's advice: 12 rounds until seeds that differ in one bit have nothing in common.
    for (let i = 0; i < 12; i++) this.u32();
  }

  /** A uniform integer in [0, 2³²). */
  u32(): number {
    const out = (((this.a + this.b) | 0) + this.counter) | 0;
    this.counter = (this.counter + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = (((this.c << 21) | (this.c >>> 11)) + out) | 0;
    return out >>> 0;
  }

  /** A uniform integer in [0, n), n ≤ 2²¹: the product is exact in a double. */
  below(n: number): number {
    return Math.floor((this.u32() * n) / 4294967296);
  }
}
