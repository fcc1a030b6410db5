import type { HostArray } from './dtype.ts';
import { fromHalf, toHalf } from './half.ts';

/** Elements of a block, which come behind a word with the scales of its two groups, the first in the low half. */
export const BLOCK = 64;
/** Elements that share a scale, which is an f16. */
export const GROUP = 32;

/** Formats of whole numbers times a scale: `bits` an element, the first in a word's lowest bits, stored plus `bias`. */
function blockFormat(bits: 4 | 8, most: number, bias: number) {
  const perWord = 32 / bits;
  const words = 1 + BLOCK / perWord;
  const mask = 2 ** bits - 1;
  return {
    items: (elements: number) => (elements / BLOCK) * words,
    unpack(stored: HostArray, into: Float32Array): void {
      for (let i = 0; i < into.length; i++) {
        const block = Math.floor(i / BLOCK) * words;
        const at = i % BLOCK;
        const scale = fromHalf((stored[block] >>> (at < GROUP ? 0 : 16)) & 0xffff);
        const raw = (stored[block + 1 + Math.floor(at / perWord)] >>> ((at % perWord) * bits)) & mask;
        into[i] = scale * (bias > 0 ? raw - bias : (raw << 24) >> 24);
      }
    },
    /** Rounds to the nearest multiple of each group's largest size over `most`. */
    pack(values: ArrayLike<number>, into: HostArray): void {
      into.fill(0);
      for (let first = 0; first < values.length; first += GROUP) {
        let largest = 0;
        for (let i = first; i < first + GROUP; i++) largest = Math.max(largest, Math.abs(values[i]));
        const half = toHalf(largest / most);
        const scale = fromHalf(half);
        const block = Math.floor(first / BLOCK) * words;
        into[block] |= half << (first % BLOCK === 0 ? 0 : 16);
        for (let i = first; i < first + GROUP; i++) {
          const whole = scale === 0 ? 0 : Math.max(-most, Math.min(most, Math.round(values[i] / scale)));
          into[block + 1 + Math.floor((i % BLOCK) / perWord)] |= ((whole + bias) & mask) << ((i % perWord) * bits);
        }
      }
    },
  };
}

export const INT8 = blockFormat(8, 127, 0);
export const INT4 = blockFormat(4, 7, 8);
