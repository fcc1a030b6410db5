const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** f32 → IEEE half bits, round to nearest even, overflow to infinity. */
export function toHalf(value: number): number {
  f32[0] = value;
  const bits = u32[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Halves are 2⁻²⁴ apart here, as floats are from ½ on: the sum rounds to one.
    f32[0] = Math.abs(f32[0]) + 0.5;
    return sign | (u32[0] - 0x3f000000);
  }
  const rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1);
  return sign | (rounded >>> 13);
}

/** IEEE half bits → number. */
export function fromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** What all 65,536 halves are worth, made on first use. */
let halves: Float32Array | undefined;

/** `fromHalf` of many. */
export function fromHalves(stored: ArrayLike<number>, into: Float32Array): void {
  const table = (halves ??= Float32Array.from({ length: 65536 }, (_, bits) => fromHalf(bits)));
  for (let i = 0; i < into.length; i++) into[i] = table[stored[i]];
}

/** f32 → bfloat16 bits, round to nearest even. */
export function toBfloat(value: number): number {
  f32[0] = value;
  const bits = u32[0];
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** bfloat16 bits → number. */
export function fromBfloat(bits: number): number {
  u32[0] = bits << 16;
  return f32[0];
}

/** `fromBfloat` of many. */
export function fromBfloats(stored: ArrayLike<number>, into: Float32Array): void {
  const bits = new Uint32Array(into.buffer, into.byteOffset, into.length);
  for (let i = 0; i < into.length; i++) bits[i] = stored[i] << 16;
}
