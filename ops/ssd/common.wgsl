// What the scan kernels share. A workgroup owns P_BLOCK rows of the state of one head over one chunk, and walks it in
// tiles of STEPS tokens. Rows of the state p, p + PV, p + 2 PV and p + 3 PV make one vec4 of x; n goes in vec4 NV.
// A thread forms EACH rows of a product at a time, EACH apart by a part of the tile, or four rows of the state.
// Rows in workgroup memory are an odd number of vec4 apart, so that neighbours lie in different banks.
// `load_x(at, i, e)` and its kin, made by `fours`, take vec4 number e of a token or state i; past its end they are 0.
const EACH = 2u;
const PAIRS = EACH * EACH;

var<workgroup> state: array<vec4<f32>, P_BLOCK * N_STRIDE>;
var<workgroup> b_tile: array<vec4<f32>, STEPS * N_STRIDE>;
var<workgroup> c_tile: array<vec4<f32>, WANT_Y * (STEPS * N_STRIDE - 1u) + 1u>;
var<workgroup> x_tile: array<vec4<f32>, STEPS * P_STRIDE>;
/** Of the tokens of a tile: dt, and the running sums of dt · A. */
var<workgroup> dt: array<f32, STEPS>;
var<workgroup> cum: array<f32, STEPS>;

struct Place { block: u32, chunk: u32, head: u32, batch: u32, group: u32, first: u32, last: u32 }

fn place_of(index: u32) -> Place {
  var rest = index / params.blocks;
  let block = index % params.blocks;
  let chunk = rest % params.chunks;
  rest /= params.chunks;
  let head = rest % params.heads;
  let first = chunk * params.chunk;
  return Place(block, chunk, head, rest / params.heads, head / (params.heads / params.groups), first,
               min(first + params.chunk, params.length));
}

fn step_index(at: Place, l: u32) -> u32 { return (at.batch * params.length + l) * params.heads + at.head; }
/** Index of the state of this head at this chunk among (batch, head, chunk). */
fn state_index(at: Place) -> u32 {
  return (at.batch * params.heads + at.head) * params.chunks + at.chunk;
}
/** Row p of the block, of the p rows a head has. */
fn row_of(at: Place, p: u32) -> u32 { return at.block * P_BLOCK + p; }
/** Where vec4 e of rows along n lies in workgroup memory, and vec4 e of tokens along p. */
fn cell_n(e: u32) -> u32 { return e / NV * N_STRIDE + e % NV; }
fn cell_p(e: u32) -> u32 { return e / PV * P_STRIDE + e % PV; }

/** Fills dt, which is 0 past the end, where the state stands still, and cum; gives the step of thread t's token. */
fn sum_steps(at: Place, l0: u32, t: u32) -> vec4<f32> {
  let step = load_steps(step_index(at, min(l0 + t, at.last - 1u)));
  if (t < STEPS) { dt[t] = select(0.0, step.x, l0 + t < at.last); }
  workgroupBarrier();
  if (t < STEPS) {
    var sum = 0.0;
    for (var j = 0u; j <= t; j++) { sum += dt[j]; }
    cum[t] = sum * step.y;
  }
  workgroupBarrier();
  return step;
}

/** C Bᵀ of the tokens i and j of a tile, and of those that are apart from them by parts. */
fn products(i: u32, j: u32) -> array<f32, PAIRS> {
  let part = STEPS / EACH;
  var dots = array<f32, PAIRS>();
  for (var n = 0u; n < NV; n++) {
    for (var r = 0u; r < EACH; r++) {
      let c = c_tile[(i + r * part) * N_STRIDE + n];
      for (var q = 0u; q < EACH; q++) { dots[r * EACH + q] += dot(c, b_tile[(j + q * part) * N_STRIDE + n]); }
    }
  }
  return dots;
}
