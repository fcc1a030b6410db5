/**
 * WGSL: −∞ as where a maximum starts. It is made and told by its bits, because compilers may take it for granted that
 * there are no infinities.
 */
export const NOTHING = /* wgsl */ `
fn nothing() -> f32 {
  var bits = 0xff800000u;
  return bitcast<f32>(bits);
}
fn is_nothing(x: f32) -> bool { return bitcast<u32>(x) == 0xff800000u; }
`;

/**
 * WGSL for sums of exponentials in one pass, as pairs (maximum m, Σ exp((x − m)·k)). The pair of nothing is (−∞, 0),
 * and values of −∞ add nothing to it either. NaN and +∞ make the sum NaN, as in torch's softmax.
 */
export const EXP_SUM = /* wgsl */ `${NOTHING}
fn no_exp() -> vec2<f32> { return vec2<f32>(nothing(), 0.0); }
fn exp_above(x: f32, m: f32, k: f32) -> f32 { return select(exp((x - m) * k), 0.0, is_nothing(x)); }
fn join_exp(a: vec2<f32>, b: vec2<f32>, k: f32) -> vec2<f32> {
  let m = max(a.x, b.x);
  return vec2<f32>(m, a.y * exp_above(a.x, m, k) + b.y * exp_above(b.x, m, k));
}
`;
