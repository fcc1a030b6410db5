export const sigmoid = (x: number): number => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

/** p·x, but 0 where p is, also for an infinite x. */
export const scaled = (p: number, x: number): number => (p === 0 ? 0 : p * x);

/** x·sigmoid(x), and its derivative. */
export const silu = (x: number): number => x * sigmoid(x);
export const dsilu = (x: number): number => sigmoid(x) * (1 + x * (1 - sigmoid(x)));

/**
 * erf to double precision: the series with positive terms (Abramowitz & Stegun 7.1.6) near zero, the continued
 * fraction of erfc (7.1.14) beyond.
 */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; n < 60; n++) {
      term *= (2 * a * a) / (2 * n + 1);
      sum += term;
    }
    return (Math.sign(x) * 2 * Math.exp(-a * a) * sum) / Math.sqrt(Math.PI);
  }
  return Math.sign(x) * (1 - erfcTail(a));
}

/** 1 − erf(a) for a ≥ 2.5, by the continued fraction. */
function erfcTail(a: number): number {
  let fraction = a;
  for (let n = 60; n >= 1; n--) fraction = a + n / 2 / fraction;
  return Math.exp(-a * a) / (fraction * Math.sqrt(Math.PI));
}

/** The cumulative normal distribution, ½(1 + erf(x/√2)), without loss in its lower tail. */
export function normalCdf(x: number): number {
  const z = x * Math.SQRT1_2;
  return z < -2.5 ? 0.5 * erfcTail(-z) : 0.5 * (1 + erf(z));
}
