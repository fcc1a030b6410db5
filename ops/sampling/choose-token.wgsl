// One workgroup a row. A token is found among the sorted ones without sorting: keys order logits as whole numbers, and
// the key at which the weights from the top reach a target is built bit by bit from its highest.
var<workgroup> place: u32;
var<workgroup> counts: array<u32, WG>;

/** What is left of the tokens: keys above `least`, and `ties` of those that equal it. */
struct Kept { least: u32, ties: u32 }

fn logit_of(key: u32) -> f32 { return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u)); }

fn logit(row: u32, i: u32) -> f32 {
  let at = row * params.vocabulary + i;
  let value = load_logits(at);
  return select(value, value * select(params.penalty, 1.0 / params.penalty, value > 0.0), load_seen(at) != 0);
}

fn weight(key: u32, greatest: f32) -> f32 { return exp((logit_of(key) - greatest) / params.temperature); }

/** The weight of the kept tokens whose keys are at least `least`; each counts 1 where all are to be counted. */
fn mass(row: u32, least: u32, kept: Kept, greatest: f32, counting: bool, local: u32) -> f32 {
  var sum = 0.0;
  for (var i = local; i < params.vocabulary; i += WG) {
    let key = order_key(logit(row, i));
    if (key >= least && key > kept.least) { sum += select(weight(key, greatest), 1.0, counting); }
  }
  let ties = select(0.0, f32(kept.ties) * select(weight(kept.least, greatest), 1.0, counting), least <= kept.least);
  return total_sum(sum, local) + select(0.0, ties, kept.ties > 0u);
}

/** The greatest key from which on the kept weigh at least `target`, or more than that. */
fn reaching(row: u32, target_mass: f32, more: bool, kept: Kept, greatest: f32, counting: bool, local: u32) -> u32 {
  var key = 0u;
  for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
    let found = mass(row, key | bit, kept, greatest, counting, local);
    if (select(found >= target_mass, found > target_mass, more)) { key |= bit; }
  }
  return key;
}

/** How many tokens have this key. */
fn equals(row: u32, key: u32, local: u32) -> u32 {
  var count = 0u;
  for (var i = local; i < params.vocabulary; i += WG) { count += select(0u, 1u, order_key(logit(row, i)) == key); }
  return u32(total_sum(f32(count), local));
}

/** The kept that come first and together weigh `target`. */
fn narrowed(row: u32, target_mass: f32, kept: Kept, greatest: f32, counting: bool, local: u32) -> Kept {
  let least = reaching(row, target_mass, false, kept, greatest, counting, local);
  let before = mass(row, least + 1u, kept, greatest, counting, local);
  let ties = select(equals(row, least, local), kept.ties, least == kept.least);
  let wanted = ceil((target_mass - before) / select(weight(least, greatest), 1.0, counting));
  return Kept(least, u32(clamp(wanted, 1.0, f32(max(ties, 1u)))));
}

/** The token of that rank, from 0, among those of one key. */
fn place_of(row: u32, key: u32, rank: u32, local: u32) -> u32 {
  let chunk = (params.vocabulary + WG - 1u) / WG;
  let end = min((local + 1u) * chunk, params.vocabulary);
  var count = 0u;
  for (var i = local * chunk; i < end; i++) { count += select(0u, 1u, order_key(logit(row, i)) == key); }
  counts[local] = count;
  workgroupBarrier();
  var before = 0u;
  for (var thread = 0u; thread < local; thread++) { before += counts[thread]; }
  if (before <= rank && rank < before + count) {
    for (var i = local * chunk; i < end; i++) {
      if (order_key(logit(row, i)) != key) { continue; }
      if (before == rank) { place = i; }
      before++;
    }
  }
  workgroupBarrier();
  return place;
}

fn kernel(row: u32, local: u32) {
  // A key, and where it is first.
  var mine = vec2<u32>(0u, 0xffffffffu);
  var broken = false;
  for (var i = local; i < params.vocabulary; i += WG) {
    let value = logit(row, i);
    broken = broken || !is_finite(value);
    let key = order_key(value);
    if (key > mine.x) { mine = vec2<u32>(key, i); }
  }
  let any_broken = total_sum(select(0.0, 1.0, broken), local) > 0.0;
  let best = greatest_key(mine, local);
  let greatest = logit_of(best.x);
  var chosen = best.y;
  DRAW
  if (local == 0u) {
    store_token(row, select(i32(chosen), -1, any_broken));
    if (!any_broken) { store_seen(row * params.vocabulary + chosen, 1); }
  }
}
