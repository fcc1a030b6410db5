import { expectWhole } from '../../engine/arguments.ts';
import { shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply, apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { FLAT_MAIN, flatLaunch } from '../common/flat.ts';
import { expectClasses, finishLaunch, finishOnHost, LOG_SUMS, maxAndLogSum } from './row-losses.ts';
import { lanesFor, ROW_MAIN, ROW_WORKGROUP, rowGrid, ROWS } from '../common/rows.ts';
import { expectShape } from '../common/shapes.ts';

interface CrossEntropyAttrs {
  readonly ignoreIndex: number;
}

const FINISH = { factor: 1, byWeight: true, root: false };

function forwardShader(lanes: number) {
  return shader(`cross_entropy.${lanes}`, () => ({
    reads: { xs: 'f32', labels: 'i32' },
    writes: { losses: 'f32', counts: 'f32', stats: 'vec2<f32>' },
    params: { rows: 'u32', columns: 'u32', ignore: 'i32', nan: 'u32' },
    constants: { WG: ROW_WORKGROUP, LANES: lanes },
    code: /* wgsl */ `${ROWS}${LOG_SUMS}
${ROW_MAIN} {
  let row = row_of(group, groups, local);
  let lane = local % LANES;
  let base = min(row, params.rows - 1u) * params.columns;
  var sum = no_exp();
  for (var c = lane; c < params.columns; c += LANES) { sum = join_exp(sum, vec2<f32>(xs[base + c], 1.0), 1.0); }
  let stat = max_and_log_sum(sum, no_exp(), 1.0, local).xy;
  if (row >= params.rows || lane > 0u) { return; }
  let label = labels[row];
  let counts_here = label != params.ignore;
  var loss = bitcast<f32>(params.nan);
  if (u32(label) < params.columns) { loss = stat.y - (xs[base + u32(label)] - stat.x); }
  losses[row] = select(0.0, loss, counts_here);
  counts[row] = select(0.0, 1.0, counts_here);
  stats[row] = stat;
}`,
  }));
}

/** The op behind `crossEntropy`: also gives each row's maximum and log Σ exp(x − maximum), and 1 / labels that count. */
export const crossEntropyOp = /* @__PURE__ */ defineOp<CrossEntropyAttrs>({
  name: 'cross_entropy',
  shape([logits, labels], { ignoreIndex }) {
    expectWhole('cross_entropy', 'ignoreIndex', ignoreIndex, -(2 ** 31));
    expectDType('cross_entropy', 'logits', logits.dtype, 'f32');
    expectDType('cross_entropy', 'labels', labels.dtype, 'i32');
    expectClasses('cross_entropy', 'logits', logits);
    expectShape('cross_entropy', 'labels', labels, logits.shape.slice(0, -1));
    return [spec([]), spec([...labels.shape, 2]), spec([])];
  },
  reference({ inputs: [logits, labels], outputs: [loss, stats, factor], attrs: { ignoreIndex } }) {
    const n = logits.shape.at(-1)!;
    let total = 0;
    let counted = 0;
    for (let r = 0; r < labels.size; r++) {
      const label = labels.data[r];
      const [max, logSum] = maxAndLogSum(logits.data, r * n, n);
      stats.data.set([max, logSum], 2 * r);
      if (label === ignoreIndex) continue;
      counted++;
      total += label >= 0 && label < n ? logSum - (logits.data[r * n + label] - max) : NaN;
    }
    [loss.data[0], factor.data[0]] = finishOnHost(total, counted, FINISH);
  },
  webgpu({ inputs: [logits, labels], outputs: [loss, stats, factor], attrs: { ignoreIndex }, scratch }) {
    const n = logits.shape.at(-1)!;
    const lanes = lanesFor(n);
    const losses = scratch([labels.size]);
    const counts = scratch([labels.size]);
    return [
      {
        shader: forwardShader(lanes),
        args: [logits, labels, losses, counts, stats],
        params: [labels.size, n, ignoreIndex, 0x7fc00000],
        grid: rowGrid(labels.size, lanes),
      },
      finishLaunch(losses, counts, loss, factor, FINISH),
    ];
  },
  wasm({ inputs: [logits, labels], outputs: [loss, stats, factor], attrs: { ignoreIndex }, k }) {
    const sizes = [labels.size, logits.shape.at(-1)!, ignoreIndex] as const;
    k.cross_entropy(logits.ptr, labels.ptr, loss.ptr, stats.ptr, factor.ptr, ...sizes);
    return true;
  },
  saves: { inputs: [0, 1], outputs: [1, 2] },
  backward: ({ needs, input, output, grads, attrs }) => [
    needs[0] ? apply1(crossEntropyBackward, [input(0), input(1), output(1), output(2), grads[0]!], attrs) : null,
    null,
  ],
});

/** dlogits = dy/count·(softmax − one_hot(label)), 0 in rows that do not count. */
const crossEntropyBackward = /* @__PURE__ */ defineOp<CrossEntropyAttrs>({
  name: 'cross_entropy_backward',
  shape: ([logits]) => [spec(logits.shape)],
  reference({ inputs: [logits, labels, stats, factor, dy], outputs: [dx], attrs: { ignoreIndex } }) {
    const n = logits.shape.at(-1)!;
    const scale = factor.data[0] * dy.data[0];
    for (let i = 0; i < dx.size; i++) {
      const r = Math.floor(i / n);
      const hit = labels.data[r] === i % n ? 1 : 0;
      const log = logits.data[i] - stats.data[2 * r] - stats.data[2 * r + 1];
      dx.data[i] = labels.data[r] === ignoreIndex ? 0 : scale * (Math.exp(log) - hit);
    }
  },
  webgpu({ inputs: [logits, labels, stats, factor, dy], outputs: [dx], attrs: { ignoreIndex } }) {
    const kernel = shader('cross_entropy.backward', () => ({
      reads: { xs: 'f32', labels: 'i32', stats: 'vec2<f32>', factor: 'f32', dys: 'f32' },
      writes: { dxs: 'f32' },
      params: { n: 'u32', columns: 'u32', ignore: 'i32' },
      code: /* wgsl */ `
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  let row = i / params.columns;
  let label = labels[row];
  let hit = select(0.0, 1.0, u32(label) == i - row * params.columns);
  let slope = factor[0] * dys[0] * (exp((xs[i] - stats[row].x) - stats[row].y) - hit);
  dxs[i] = select(slope, 0.0, label == params.ignore);
}`,
    }));
    const params = [dx.size, logits.shape.at(-1)!, ignoreIndex];
    return [flatLaunch(kernel, [logits, labels, stats, factor, dy, dx], params, dx.size)];
  },
  wasm({ inputs: [logits, labels, stats, factor, dy], outputs: [dx], attrs: { ignoreIndex }, k }) {
    const sizes = [labels.size, logits.shape.at(-1)!, ignoreIndex] as const;
    k.cross_entropy_backward(logits.ptr, labels.ptr, stats.ptr, factor.ptr, dy.ptr, dx.ptr, ...sizes);
    return true;
  },
});

/**
 * Mean of −log softmax(logits)[label] over the labels that count (torch.nn.functional.cross_entropy). Where none
 * counts, loss and gradient are 0 (torch has NaN), so that a batch without answers does no harm; a label out of range
 * gives NaN.
 * @param logits f32 (…, V), V ≥ 1
 * @param labels i32 (…)
 * @returns f32 []
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: { readonly ignoreIndex?: number } = {}): Tensor {
  const [loss, stats, factor] = apply(crossEntropyOp, [logits, labels], { ignoreIndex: options.ignoreIndex ?? -100 });
  stats.dispose();
  factor.dispose();
  return loss;
}
