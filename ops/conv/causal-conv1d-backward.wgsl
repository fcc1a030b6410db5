// Depthwise causal convolution, backward. A thread owns one channel and walks `segment` positions at a time, keeping
// the last K inputs and the last K gradients before the activation in registers; it owns every parts-th segment, so
// that the partial sums are few: for each part dw (C, K), then db (C).
fn walk(c: u32, part: u32) {
  var w: array<f32, K>;
  var dw: array<f32, K>;
  for (var k = 0u; k < K; k++) { w[k] = load_w(c * K + k); }
  var db = 0.0;
  let segments = max(1u, (params.length + params.segment - 1u) / params.segment);
  for (var s = part; s < segments * params.batch; s += params.parts) {
    let b = s / segments;
    let start = (s % segments) * params.segment;
    let end = min(start + params.segment, params.length);
    var x: array<f32, K>;
    var g: array<f32, K>;
    for (var k = 0u; k + 1u < K; k++) {
      x[k + 1u] = input_at(b, c, i32(start + k) - i32(K - 1u));
      g[k + 1u] = 0.0;
    }
    // Past the end of the segment its last K−1 inputs still miss the gradients of later positions.
    for (var l = start; l < end + K - 1u; l++) {
      for (var k = 0u; k + 1u < K; k++) {
        x[k] = x[k + 1u];
        g[k] = g[k + 1u];
      }
      g[K - 1u] = 0.0;
      if (l < params.length) {
        x[K - 1u] = input_at(b, c, i32(l));
        var sum = load_bias(c);
        for (var k = 0u; k < K; k++) { sum += w[k] * x[k]; }
        g[K - 1u] = load_dy(index(b, c, l, params.length)) * slope(sum);
        if (l < end) {
          db += g[K - 1u];
          for (var k = 0u; k < K; k++) { dw[k] += g[K - 1u] * x[k]; }
        }
      }
      // Before the first segment are the initial columns.
      if (WANT_X == 1u && (start == 0u || l >= start + K - 1u)) {
        var dx = 0.0;
        for (var k = 0u; k < K; k++) { dx += w[K - 1u - k] * g[k]; }
        if (l + 1u < K) {
          store_dinitial(index(b, c, l, K - 1u), dx);
        } else {
          store_dx(index(b, c, l + 1u - K, params.length), dx);
        }
      }
    }
  }
  let sums = part * params.channels * (K + 1u);
  for (var k = 0u; k < K; k++) { store_sums(sums + c * K + k, dw[k]); }
  store_sums(sums + params.channels * K + c, db);
}
