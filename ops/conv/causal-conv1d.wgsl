// What the kernels of the depthwise causal convolution share. K taps; CHANNELS_LAST: (B, L, C), else (B, C, L).
struct Place { b: u32, c: u32, l: u32 }
/** Where element i of a tensor of so many positions lies. */
fn place(i: u32, length: u32) -> Place {
  if (CHANNELS_LAST == 1u) {
    return Place(i / params.channels / length, i % params.channels, i / params.channels % length);
  }
  return Place(i / length / params.channels, i / length % params.channels, i % length);
}
fn index(b: u32, c: u32, l: u32, length: u32) -> u32 {
  return select((b * params.channels + c) * length + l, (b * length + l) * params.channels + c, CHANNELS_LAST == 1u);
}
/** The input of position l: before the sequence, of the initial columns. */
fn input_at(b: u32, c: u32, l: i32) -> f32 {
  if (l >= 0) { return load_x(index(b, c, u32(l), params.length)); }
  return load_initial(index(b, c, u32(l + i32(K - 1u)), K - 1u));
}
/** The sum of position l, before the activation. */
fn sum_at(b: u32, c: u32, l: u32) -> f32 {
  var sum = load_bias(c);
  for (var k = 0u; k < K; k++) { sum += load_w(c * K + k) * input_at(b, c, i32(l + k) - i32(K - 1u)); }
  return sum;
}
fn activated(sum: f32) -> f32 { return select(sum, sum * sigmoid_(sum), SILU == 1u); }
/** Slope of the activation. */
fn slope(sum: f32) -> f32 { let s = sigmoid_(sum); return select(1.0, s * (1.0 + sum * (1.0 - s)), SILU == 1u); }
