import { scaled } from '../common/math.ts';

/**
 * A divergence of two distributions over classes, given by their logarithms: a of the student's and b of the teacher's;
 * WGSL also sees p = e^a and q = e^b. `aux` is a second sum over the classes, which the slope looks at.
 */
interface Divergence {
  /** WGSL, and in JavaScript: what a class adds to the loss and to aux. */
  readonly terms: string;
  readonly termsOf: (a: number, b: number) => readonly [loss: number, aux: number];
  /** The derivative by the student's logit, without 1/T. */
  readonly slope: string;
  readonly slopeOf: (a: number, b: number, aux: number) => number;
}

function logCosh(x: number): number {
  const a = Math.abs(x);
  return a + Math.log1p(Math.exp(-2 * a)) - Math.LN2;
}

/**
 * Adding p_s − p_t, which sums to zero, makes every term of the KLs non-negative and cancels what rounding did to the
 * two logsumexps.
 */
export const DIVERGENCES = {
  kl: {
    terms: 'vec2<f32>(scaled(q, b - a) + (p - q), 0.0)',
    termsOf: (a, b) => [scaled(Math.exp(b), b - a), 0],
    slope: 'p - q',
    slopeOf: (a, b) => Math.exp(a) - Math.exp(b),
  },
  reverse: {
    terms: 'vec2<f32>(scaled(p, a - b) + (q - p))',
    termsOf: (a, b) => [scaled(Math.exp(a), a - b), scaled(Math.exp(a), a - b)],
    slope: 'scaled(p, a - b - aux)',
    slopeOf: (a, b, aux) => scaled(Math.exp(a), a - b - aux),
  },
  jsd: {
    terms: 'vec2<f32>(scaled(0.5 * (p + q), log_cosh(0.5 * (a - b))), scaled(0.5 * p, log_cosh(0.5 * (a - b))))',
    termsOf(a, b) {
      const apart = logCosh((a - b) / 2);
      return [scaled((Math.exp(a) + Math.exp(b)) / 2, apart), scaled(Math.exp(a) / 2, apart)];
    },
    slope: 'scaled(p, 0.5 * log_cosh(0.5 * (a - b)) - aux) + 0.25 * (p - q)',
    slopeOf: (a, b, aux) =>
      scaled(Math.exp(a), logCosh((a - b) / 2) / 2 - aux) + (Math.exp(a) - Math.exp(b)) / 4,
  },
} as const satisfies Record<string, Divergence>;

export type DivergenceKind = keyof typeof DIVERGENCES;
