// What decode.wgsl does first for one new token: its query and key turn by its position, and the key and the value go
// to the caches. A workgroup goes by its own copies of these: another may be writing them.
var<workgroup> unturned: array<array<f32, 4u * DV>, 2>;
var<workgroup> own_key: array<vec4<f32>, DV>;
var<workgroup> own_value: array<vec4<f32>, DV>;
/** Where the token's key is in the cache. */
var<private> own: u32;

fn turned_four(which: u32, d: u32) -> vec4<f32> {
  var value: vec4<f32>;
  for (var c = 0u; c < 4u; c++) {
    let e = 4u * d + c;
    value[c] = unturned[which][e];
    if (e < 2u * HALF) {
      let low = e < HALF;
      let partner = unturned[which][select(e - HALF, e + HALF, low)];
      let r = cos_sin(u32(max(load_first(0u), 0)), e % HALF);
      value[c] = value[c] * r.x + select(partner, -partner, low) * r.y;
    }
  }
  return value;
}

fn prepare(p: Problem, r: u32, share: u32, t: u32) {
  own = key_offset(p, key_count(p) - 1u);
  if (t < DV) {
    let from_key = (p.b * params.kv_heads + p.kv) * params.dim;
    let q = load_q(row_offset(p, r), t);
    let k = load_k(from_key, t);
    for (var c = 0u; c < 4u; c++) {
      unturned[0][4u * t + c] = q[c];
      unturned[1][4u * t + c] = k[c];
    }
    own_value[t] = load_v(from_key, t);
  }
  workgroupBarrier();
  if (t >= DV) { return; }
  query[t] = turned_four(0u, t);
  own_key[t] = turned_four(1u, t);
  if (r == 0u && share % PARTS == 0u) {
    store_keys(own, t, own_key[t]);
    store_values(own, t, own_value[t]);
  }
}

fn key_at(at: u32, d: u32) -> vec4<f32> {
  if (at == own) { return own_key[d]; }
  return load_keys(at, d);
}
fn value_at(at: u32, d: u32) -> vec4<f32> {
  if (at == own) { return own_value[d]; }
  return load_values(at, d);
}
