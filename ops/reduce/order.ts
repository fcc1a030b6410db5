/** Where `a` at index i comes before `b` at index j: larger first, NaN largest, the lower index among equals. */
export function comesBefore(a: number, i: number, b: number, j: number): boolean {
  if (a === b || (a !== a && b !== b)) return i < j;
  return a > b || a !== a;
}

/** WGSL: whole numbers that sort as the floats do, NaN largest. */
const FLOAT_KEY = /* wgsl */ `
fn order_key(v: f32) -> u32 {
  let own = bitcast<u32>(v);
  let bits = select(own, 0u, own == 0x80000000u);
  let key = bits ^ select(0x80000000u, 0xffffffffu, (bits >> 31u) == 1u);
  return select(key, 0xffffffffu, (bits & 0x7fffffffu) > 0x7f800000u);
}
`;

const KEYS = {
  f32: FLOAT_KEY,
  i32: 'fn order_key(v: i32) -> u32 { return bitcast<u32>(v) ^ 0x80000000u; }\n',
  u32: 'fn order_key(v: u32) -> u32 { return v; }\n',
};

/** WGSL for values of a type: `order_key`, and of two pairs (key, index) that with the largest key, of equals the lower. */
export const orderWgsl = (type: keyof typeof KEYS): string => /* wgsl */ `${KEYS[type]}
fn first_of(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return select(a, b, b.x > a.x || (b.x == a.x && b.y < a.y));
}
`;
