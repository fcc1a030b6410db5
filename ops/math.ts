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
  let fraction = a;
  for (let n = 60; n >= 1; n--) fraction = a + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-a * a) / (fraction * Math.sqrt(Math.PI)));
}

/** erf in f32 WGSL: the Maclaurin series below 0.5, Abramowitz & Stegun 7.1.26 (error 1.5e-7) beyond. */
export const erfWgsl = /* wgsl */ `
fn erf_(x: f32) -> f32 {
  let a = abs(x);
  let s = x * x;
  let near = x * (1.1283792 + s * (-0.37612638 + s * (0.11283792 + s * (-0.026866171 + s * (0.0052239776 - s * 0.00085483270)))));
  let t = 1.0 / (1.0 + 0.3275911 * a);
  let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  let far = sign(x) * (1.0 - p * exp(-min(s, 80.0)));
  return select(far, near, a < 0.5);
}
`;
