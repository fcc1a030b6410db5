import { layoutOf } from '../ops/gemm/parts.ts';
import type { GemmSpec } from '../ops/gemm/wgsl.ts';

/** Nearest IEEE half, ties to even. */
export function toHalf(value: number): number {
  const f = new Float32Array([value]);
  const bits = new Uint32Array(f.buffer)[0];
  const [sign, abs] = [(bits >>> 16) & 0x8000, bits & 0x7fffffff];
  if (abs >= 0x477ff000) return sign | (abs > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (abs < 0x38800000) return sign | roundEven(Math.abs(f[0]) * 2 ** 24);
  return sign | ((abs - 0x38000000 + 0xfff + ((abs >>> 13) & 1)) >>> 13);
}

function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** Value of an IEEE half. */
export function fromHalf(h: number): number {
  const [exponent, fraction] = [(h >>> 10) & 31, h & 0x3ff];
  const sign = h & 0x8000 ? -1 : 1;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

const ACTIVATIONS = {
  none: (x: number) => x,
  relu: (x: number) => Math.max(x, 0),
  silu: (x: number) => x / (1 + Math.exp(-x)),
  gelu_tanh: (x: number) => 0.5 * x * (1 + Math.tanh(0.7978845608028654 * (x + 0.044715 * x ** 3))),
};

/** The product in float64, written over a copy of c; operands as plain numbers in the layout of the spec. */
export function referenceGemm(
  spec: GemmSpec,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  c: ArrayLike<number>,
  bias?: ArrayLike<number>,
): Float64Array {
  const g = layoutOf(spec);
  const out = Float64Array.from(c);
  const at = (o: typeof g.a, z: readonly number[], row: number, column: number) =>
    o.offset + z[0] * o.strides[0] + z[1] * o.strides[1] + row * o.ld + column;
  const element = (z: readonly number[], m: number, n: number): number => {
    let sum = 0;
    for (let k = 0; k < g.K; k++) {
      const left = a[g.transA ? at(g.a, z, k, m) : at(g.a, z, m, k)];
      sum += left * b[g.transB ? at(g.b, z, n, k) : at(g.b, z, k, n)];
    }
    return ACTIVATIONS[g.epilogue](g.alpha * sum + (bias ? bias[n] : 0));
  };
  for (let outer = 0; outer < g.batch[0]; outer++) {
    for (let inner = 0; inner < g.batch[1]; inner++) {
      for (let m = 0; m < g.M; m++) {
        for (let n = 0; n < g.N; n++) {
          const i = at(g.c, [outer, inner], m, n);
          out[i] = element([outer, inner], m, n) + (g.accumulate ? c[i] : 0);
        }
      }
    }
  }
  return out;
}

/** Elements a buffer needs to hold every matrix of operand x. */
export function extentOf(spec: GemmSpec, x: 'a' | 'b' | 'c'): number {
  const g = layoutOf(spec);
  const rows = { a: g.transA ? g.K : g.M, b: g.transB ? g.N : g.K, c: g.M }[x];
  const columns = { a: g.transA ? g.M : g.K, b: g.transB ? g.K : g.N, c: g.N }[x];
  const { offset, ld, strides } = g[x];
  return offset + (g.batch[0] - 1) * strides[0] + (g.batch[1] - 1) * strides[1] + (rows - 1) * ld + columns;
}
