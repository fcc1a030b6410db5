// Folds each line of (outer, len, inner), or a part of it, of `chunk` elements. What is folded (Value, Acc, value,
// lift, join, four) comes before this text.
var<workgroup> partial: array<Acc, 256>;

// Where a thread stands, and which elements of its line its part is: none past the last line.
struct Place { line: u32, lane: u32, part: u32, base: u32, begin: u32, end: u32 }

fn place_of(group: u32, local: u32) -> Place {
  let tiles = (params.lines + TILE - 1u) / TILE;
  let first = group % tiles * TILE;
  let part = group / tiles;
  let line = first + select(local % TILE, local / LANES, ALONG == 1u);
  let begin = part * params.chunk;
  let end = select(begin, min(params.len, begin + params.chunk), line < params.lines);
  let base = (line / params.inner) * params.len * params.inner + line % params.inner;
  return Place(line, select(local / TILE, local % LANES, ALONG == 1u), part, base, begin, end);
}

// Four loads under way at a time.
fn four_at(at: Place, k: u32) -> Acc {
  let i = at.base + k * params.inner;
  let step = LANES * params.inner;
  return four(value(i), value(i + step), value(i + 2u * step), value(i + 3u * step), k);
}

fn one_at(at: Place, k: u32) -> Acc { return lift(value(at.base + k * params.inner), k); }

// What the line, or its part, folds to. All threads must call this.
fn fold_line(at: Place, local: u32) -> Acc {
  let lanes = min(LANES, at.end - at.begin);
  if (at.lane < lanes) {
    var acc: Acc;
    var k = at.begin + at.lane;
    if (k + 3u * LANES < at.end) {
      acc = four_at(at, k);
      k += 4u * LANES;
    } else {
      acc = one_at(at, k);
      k += LANES;
    }
    // Sixteen at a time, so that long sums lose no digits.
    while (k + 3u * LANES < at.end) {
      let stop = min(at.end, k + 16u * LANES);
      var part = four_at(at, k);
      for (k += 4u * LANES; k + 3u * LANES < stop; k += 4u * LANES) { part = join(part, four_at(at, k)); }
      acc = join(acc, part);
    }
    for (; k < at.end; k += LANES) { acc = join(acc, one_at(at, k)); }
    partial[local] = acc;
  }
  workgroupBarrier();
  for (var s = LANES / 2u; s > 0u; s /= 2u) {
    if (at.lane < s && at.lane + s < lanes) { partial[local] = join(partial[local], partial[local + s * NEXT]); }
    workgroupBarrier();
  }
  return partial[local - at.lane * NEXT];
}
