// What the kernels that form o share: a row's largest score so far, its sum of weights, and what these make.

/** e^(|scale| · (x − top)), 0 for a key that is not seen. */
fn weight(x: f32, top: f32) -> f32 { return select(exp((x - top) * steepness()), 0.0, is_nothing(x)); }

/** 1 / sum; 0 where no key was seen. A NaN is a sum: it is told by its bits. */
fn inverse(sum: f32) -> f32 { return select(1.0 / sum, 0.0, bitcast<u32>(sum) == 0u); }

/** Leaves the largest score and the logarithm of the sum: apart, or a large score would round the sum away. */
fn put_stats(row: u32, top: f32, sum: f32) {
  let none = bitcast<u32>(sum) == 0u;
  store_stats(2u * row, select(top, 0.0, none));
  store_stats(2u * row + 1u, select(log(sum), 0.0, none));
}
