// 32 random bits that depend on the keys and the index alone, and a normal number of two such words.
fn mix_(x: u32) -> u32 {
  var v = (x ^ (x >> 16u)) * 0x21f0aaadu;
  v = (v ^ (v >> 15u)) * 0x735a2d97u;
  return v ^ (v >> 15u);
}
fn bits_of(i: u32, key0: u32, key1: u32) -> u32 { return mix_(mix_(i + key0) ^ key1); }
fn normal_of(bits: u32, others: u32) -> f32 {
  return sqrt(-2.0 * log_((f32(bits) + 1.0) * 0x1p-32)) * cos_(6.2831855 * (f32(others >> 8u) * 0x1p-24));
}
