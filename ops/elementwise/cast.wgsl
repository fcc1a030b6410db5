// Two elements a thread, because 16-bit types come in pairs. IEEE half and bfloat16 are converted by their bits: WGSL's
// own pack2x16float leaves rounding and overflow to the driver. Mirrors engine/dtype.ts.
fn from_half(h: u32) -> f32 {
  let sign = (h & 0x8000u) << 16u;
  let exponent = (h >> 10u) & 0x1fu;
  let mantissa = h & 0x3ffu;
  if (exponent == 0u) { return bitcast<f32>(bitcast<u32>(f32(mantissa) * 5.9604644775390625e-8) | sign); }
  if (exponent == 31u) { return bitcast<f32>(sign | 0x7f800000u | (mantissa << 13u)); }
  return bitcast<f32>(sign | ((exponent + 112u) << 23u) | (mantissa << 13u));
}

fn to_half(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x47800000u) { return sign | 0x7c00u; }
  if (magnitude < 0x33000000u) { return sign; }
  if (magnitude < 0x38800000u) {
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let shift = 126u - (magnitude >> 23u);
    let half = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let middle = 1u << (shift - 1u);
    return sign | (half + select(0u, 1u, rest > middle || (rest == middle && (half & 1u) == 1u)));
  }
  return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
}

fn from_bfloat(b: u32) -> f32 { return bitcast<f32>(b << 16u); }

fn to_bfloat(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// WGSL stops at the largest float below an integer type's bound, and leaves open what becomes of NaN.
fn to_i32(value: f32) -> i32 {
  if ((bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u) { return 0; }
  return select(i32(value), 0x7fffffff, value >= 2147483648.0);
}

fn to_u32(value: f32) -> u32 {
  if ((bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u) { return 0u; }
  return select(u32(value), 0xffffffffu, value >= 4294967296.0);
}
