// Sums rows of src into the rows of y that the index names. A workgroup owns ROWS rows and WG columns of one
// slice's sums, keeps them in workgroup memory and walks over the slice's part of the index in order. Each step marks,
// of CHUNK entries, those that name a row of its own (an or of bits, whose order does not matter), then adds these in
// order, four loads at a time. What a chunk sums to goes to its rows of y before the next, so that a row that comes
// often loses no digits.
const CHUNK = WG * 4u;
const NONE: u32 = 0xffffffffu;
var<workgroup> sums: array<f32, ROWS * WG>;
var<workgroup> rows: array<u32, CHUNK>;
var<workgroup> marks: array<atomic<u32>, CHUNK / 32u>;

struct Hit {
  row: u32,
  value: f32,
}

// The entry at bit `bit` of the marks' word `word`, if there is one: where its row's sum is, and what to add.
fn hit(bit: u32, word: u32, start: u32, c: u32) -> Hit {
  if (bit == NONE || c >= params.inner) { return Hit(NONE, 0.0); }
  let j = word * 32u + bit;
  return Hit(rows[j], load_src((start + j) * params.inner + c));
}

// Bits of the rows that this chunk adds to, and of those that y has some of.
var<private> touched: u32;
var<private> begun: u32;

fn sum_up(h: Hit, local: u32) {
  if (h.row == NONE) { return; }
  sums[h.row * WG + local] += h.value;
  touched |= 1u << h.row;
}

// Adds the sums of the rows of which `which` has a bit to those in y, where these begin at `at`, and starts them anew.
fn hand_over(which: u32, at: u32, rows_left: u32, local: u32) {
  for (var r = 0u; r < min(ROWS, rows_left); r += 1u) {
    if ((which & (1u << r)) == 0u) { continue; }
    let i = at + r * params.inner;
    var sum = sums[r * WG + local];
    if ((begun & (1u << r)) != 0u) { sum += load_y(i); }
    store_y(i, sum);
    sums[r * WG + local] = 0.0;
  }
  begun |= which;
  touched = 0u;
}

fn kernel(group: u32, local: u32) {
  let across = (params.inner + WG - 1u) / WG;
  let tiles = across * ((params.length + ROWS - 1u) / ROWS);
  let part = group / tiles;
  let tile = group % tiles;
  let first = tile / across * ROWS;
  let c = tile % across * WG + local;
  for (var r = 0u; r < ROWS; r += 1u) { sums[r * WG + local] = 0.0; }
  let begin = part * params.each;
  let end = min(params.count, begin + params.each);
  let rows_left = select(params.length - first, 0u, c >= params.inner);
  let at = (part * params.length + first) * params.inner + c;
  for (var start = begin; start < end; start += CHUNK) {
    hand_over(touched, at, rows_left, local);
    if (local < CHUNK / 32u) { atomicStore(&marks[local], 0u); }
    workgroupBarrier();
    for (var j = local; j < CHUNK; j += WG) {
      let row = u32(load_index(min(start + j, end - 1u))) - first;
      rows[j] = row;
      if (row < ROWS && start + j < end) { atomicOr(&marks[j / 32u], 1u << (j % 32u)); }
    }
    workgroupBarrier();
    for (var word = 0u; word < CHUNK / 32u; word += 1u) {
      var bits = atomicLoad(&marks[word]);
      while (bits != 0u) {
        var hits: array<Hit, 4>;
        for (var n = 0u; n < 4u; n += 1u) {
          hits[n] = hit(firstTrailingBit(bits), word, start, c);
          bits &= bits - min(bits, 1u);
        }
        for (var n = 0u; n < 4u; n += 1u) { sum_up(hits[n], local); }
      }
    }
    workgroupBarrier();
  }
  hand_over(touched | ~begun, at, rows_left, local);
}
