import { apply, apply1 } from '../engine/apply.ts';
import { shader } from '../engine/backends/webgpu/launch.ts';
import { expectDType } from '../engine/dtype.ts';
import { defineOp, spec } from '../engine/op.ts';
import type { Tensor } from '../engine/tensor.ts';
import { FLAT_MAIN, flatLaunch } from './flat.ts';
import { finishLaunch, finishOnHost, LOG_SUMS, logSumExp } from './row-losses.ts';
import { lanesFor, ROW_MAIN, ROW_WORKGROUP, rowGrid, ROWS } from './rows.ts';
import { expectShape } from './shapes.ts';

interface CrossEntropyAttrs {
  readonly ignoreIndex: number;
}

const FINISH = { factor: 1, byWeight: true, root: false };

function forwardShader(lanes: number) {
  return shader(`cross_entropy.${lanes}`, () => ({
    reads: { xs: 'f32', labels: 'i32' },
    writes: { losses: 'f32', counts: 'f32', lses: 'f32' },
    params: { rows: 'u32', columns: 'u32', ignore: 'i32', nan: 'u32' },
    constants: { WG: ROW_WORKGROUP, LANES: lanes },
    code: /* wgsl */ `${ROWS}${LOG_SUMS}
${ROW_MAIN} {
  let row = row_of(group, groups, local);
  let lane = local % LANES;
  let base = min(row, params.rows - 1u) * params.columns;
  var sums = NOTHING;
  for (var c = lane; c < params.columns; c += LANES) {
    sums = join(sums, vec4<f32>(xs[base + c], 1.0, -1e30, 0.0));
  }
  let lse = log_sums(sums, local).x;
  if (row >= params.rows || lane > 0u) { return; }
  let label = labels[row];
  let counts_here = label != params.ignore;
  var loss = bitcast<f32>(params.nan);
  if (u32(label) < params.columns) { loss = lse - xs[base + u32(label)]; }
  losses[row] = select(0.0, loss, counts_here);
  counts[row] = select(0.0, 1.0, counts_here);
  lses[row] = lse;
}`,
  }));
}

/** The op behind `crossEntropy`: also gives logsumexp of each row, and 1 / the number of labels that count. */
export const crossEntropyOp = /* @__PURE__ */ defineOp<CrossEntropyAttrs>({
  name: 'cross_entropy',
  shape([logits, labels]) {
    expectDType('cross_entropy', 'logits', logits.dtype, 'f32');
    expectDType('cross_entropy', 'labels', labels.dtype, 'i32');
    expectShape('cross_entropy', 'labels', labels, logits.shape.slice(0, -1));
    return [spec([]), spec(labels.shape), spec([])];
  },
  reference({ inputs: [logits, labels], outputs: [loss, lse, factor], attrs: { ignoreIndex } }) {
    const n = logits.shape.at(-1)!;
    let total = 0;
    let counted = 0;
    for (let r = 0; r < labels.size; r++) {
      const label = labels.data[r];
      lse.data[r] = logSumExp(logits.data, r * n, n);
      if (label === ignoreIndex) continue;
      counted++;
      total += label >= 0 && label < n ? lse.data[r] - logits.data[r * n + label] : NaN;
    }
    [loss.data[0], factor.data[0]] = finishOnHost(total, counted, FINISH);
  },
  webgpu({ inputs: [logits, labels], outputs: [loss, lse, factor], attrs: { ignoreIndex }, scratch }) {
    const n = logits.shape.at(-1)!;
    const lanes = lanesFor(n);
    const losses = scratch([labels.size]);
    const counts = scratch([labels.size]);
    return [
      {
        shader: forwardShader(lanes),
        args: [logits, labels, losses, counts, lse],
        params: [labels.size, n, ignoreIndex, 0x7fc00000],
        grid: rowGrid(labels.size, lanes),
      },
      finishLaunch(losses, counts, loss, factor, FINISH),
    ];
  },
  wasm({ inputs: [logits, labels], outputs: [loss, lse, factor], attrs: { ignoreIndex }, k }) {
    const sizes = [labels.size, logits.shape.at(-1)!, ignoreIndex] as const;
    k.cross_entropy(logits.ptr, labels.ptr, loss.ptr, lse.ptr, factor.ptr, ...sizes);
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
  reference({ inputs: [logits, labels, lse, factor, dy], outputs: [dx], attrs: { ignoreIndex } }) {
    const n = logits.shape.at(-1)!;
    const scale = factor.data[0] * dy.data[0];
    for (let i = 0; i < dx.size; i++) {
      const r = Math.floor(i / n);
      const hit = labels.data[r] === i % n ? 1 : 0;
      dx.data[i] = labels.data[r] === ignoreIndex ? 0 : scale * (Math.exp(logits.data[i] - lse.data[r]) - hit);
    }
  },
  webgpu({ inputs: [logits, labels, lse, factor, dy], outputs: [dx], attrs: { ignoreIndex } }) {
    const kernel = shader('cross_entropy.backward', () => ({
      reads: { xs: 'f32', labels: 'i32', lses: 'f32', factor: 'f32', dys: 'f32' },
      writes: { dxs: 'f32' },
      params: { n: 'u32', columns: 'u32', ignore: 'i32' },
      code: /* wgsl */ `
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  let row = i / params.columns;
  let label = labels[row];
  let hit = select(0.0, 1.0, u32(label) == i - row * params.columns);
  let slope = factor[0] * dys[0] * (exp(xs[i] - lses[row]) - hit);
  dxs[i] = select(slope, 0.0, label == params.ignore);
}`,
    }));
    const params = [dx.size, logits.shape.at(-1)!, ignoreIndex];
    return [flatLaunch(kernel, [logits, labels, lse, factor, dy, dx], params, dx.size)];
  },
  wasm({ inputs: [logits, labels, lse, factor, dy], outputs: [dx], attrs: { ignoreIndex }, k }) {
    const sizes = [labels.size, logits.shape.at(-1)!, ignoreIndex] as const;
    k.cross_entropy_backward(logits.ptr, labels.ptr, lse.ptr, factor.ptr, dy.ptr, dx.ptr, ...sizes);
    return true;
  },
});

/**
 * Mean of −log softmax(logits)[label] over the labels that count (torch.nn.functional.cross_entropy). Where none
 * counts, loss and gradient are 0 (torch has NaN), so that a batch without answers does no harm; a label out of range
 * gives NaN.
 * @param logits f32 (…, V)
 * @param labels i32 (…)
 * @returns f32 []
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: { readonly ignoreIndex?: number } = {}): Tensor {
  const [loss, lse, factor] = apply(crossEntropyOp, [logits, labels], { ignoreIndex: options.ignoreIndex ?? -100 });
  lse.dispose();
  factor.dispose();
  return loss;
}
