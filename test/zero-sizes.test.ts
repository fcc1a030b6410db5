import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { type Backend, elements } from '../engine/backend.ts';
import { MatvlmError } from '../engine/errors.ts';
import { backwardFrom } from '../engine/tape.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import * as ops from '../ops/index.ts';
import { random } from './support/agree.ts';
import { closeBackend, openBackend, openGpu, openWasms } from './support/backends.ts';

const reference = await openBackend('reference');
const others = [...(await openWasms()), await openGpu()];
const test = suite('every dimension of every op at size 0');

test.after(() => [reference, ...others].forEach(closeBackend));

type Sizes = Record<string, number>;
/** Makes inputs of one case; each floating one gets a gradient. */
interface Make {
  (...shape: number[]): Tensor;
  /** Whole numbers, all 0. */
  readonly ids: (...shape: number[]) => Tensor;
}
type Run = (make: Make, sizes: Sizes) => Tensor | readonly Tensor[];

const pair = { M: 2, N: 3 };
type Case = readonly [Sizes, Run];
const onPair = (op: (x: Tensor) => Tensor | readonly Tensor[]): Case => [pair, (t, { M, N }) => op(t(M, N))];
const kl = { kind: 'kl', temperature: 2, reduction: 'mean' } as const;

/** Ops with the sizes of their dimensions, each of which is set to 0 in turn. */
const CASES: Record<string, Case> = {
  attention: [
    { B: 2, H: 2, L: 2, S: 3, D: 4 },
    (t, { B, H, L, S, D }) => ops.attention(t(B, H, L, D), t(B, H, S, D), t(B, H, S, D), { causal: true }),
  ],
  'attention, masked': [
    { B: 2, KV: 1, L: 2, S: 3, D: 5 },
    (t, { B, KV, L, S, D }) => ops.attention(t(B, 2, L, D), t(B, KV, S, D), t(B, KV, S, D), { mask: t.ids(B, S) }),
  ],
  ssd_scan: [
    { B: 2, L: 3, H: 2, P: 3, G: 1, N: 4 },
    (t, { B, L, H, P, G, N }) =>
      ops.ssdScan({
        ...{ x: t(B, L, H, P), dt: t(B, L, H), B: t(B, L, G, N), C: t(B, L, G, N) },
        ...{ A_log: t(H), D: t(H), dt_bias: t(H) },
      }),
  ],
  'ssd_scan on a state': [
    { B: 2, H: 2, P: 3, N: 4 },
    (t, { B, H, P, N }) =>
      ops.ssdScan(
        { x: t(B, 1, H, P), dt: t(B, 1, H), A_log: t(H), B: t(B, 1, H, N), C: t(B, 1, H, N), D: t(H), dt_bias: t(H) },
        { initialState: t(B, H, P, N) },
      ),
  ],
  causal_conv1d: [
    { B: 2, C: 3, L: 4, K: 2 },
    (t, { B, C, L, K }) => ops.causalConv1d(t(B, C, L), t(C, K), t(C), { activation: 'silu' }),
  ],
  'causal_conv1d, channels last': [
    { B: 2, C: 3, L: 4 },
    (t, { B, C, L }) => ops.causalConv1d(t(B, L, C), t(C, 4), null, { layout: 'blc', initial: t(B, 3, C) }),
  ],
  conv2d: [
    { B: 2, C: 2, H: 4, O: 3, K: 2 },
    (t, { B, C, H, O, K }) => ops.conv2d(t(B, C, H, 4), t(O, C, K, 2), t(O), { stride: 2, padding: 0 }),
  ],
  matmul: [{ A: 2, M: 3, K: 4, N: 5 }, (t, { A, M, K, N }) => ops.matmul(t(A, M, K), t(A, K, N))],
  linear: [{ M: 3, K: 4, N: 5 }, (t, { M, K, N }) => ops.linear(t(M, K), t(N, K), t(N), { addend: t(M, N) })],
  layer_norm: [pair, (t, { M, N }) => ops.layerNorm(t(M, N), t(N), t(N))],
  rms_norm: [pair, (t, { M, N }) => ops.rmsNorm(t(M, N), t(N))],
  rms_norm_gated: [pair, (t, { M, N }) => ops.rmsNormGated(t(M, N), t(M, N), t(N))],
  rope: [{ B: 2, H: 2, L: 3, D: 4 }, (t, { B, H, L, D }) => ops.rope(t(B, H, L, D), { rotaryDim: D })],
  embedding: [{ V: 3, D: 2, M: 4 }, (t, { V, D, M }) => ops.embedding(t(V, D), t.ids(M))],
  index_select: [{ A: 2, V: 3, D: 2, M: 4 }, (t, { A, V, D, M }) => ops.indexSelect(t(A, V, D), 1, t.ids(M))],
  gather: [{ A: 2, V: 3, M: 2 }, (t, { A, V, M }) => ops.gather(t(A, V), 1, t.ids(A, M))],
  one_hot: [{ M: 2, V: 3 }, (t, { M, V }) => ops.oneHot(t.ids(M), V)],
  where: [pair, (t, { M, N }) => ops.where(t.ids(M, N), t(M, N), t(1, N))],
  cat: [{ M: 2, N: 3, L: 2 }, (t, { M, N, L }) => ops.cat([t(M, N), t(L, N)], 0)],
  stack: onPair((x) => ops.stack([x, x], 1)),
  split: [{ M: 2, N: 3, L: 2 }, (t, { M, N, L }) => ops.split(t(M, N + L), [N, L], 1)],
  expand: [{ M: 2, N: 3 }, (t, { M, N }) => ops.expand(t(1, N), [M, N])],
  pad: onPair((x) => ops.pad(x, [1, 0], 2)),
  repeat_interleave: [{ M: 2, N: 3, R: 2 }, (t, { M, N, R }) => ops.repeatInterleave(t(M, N), R, 1)],
  permute: onPair((x) => ops.permute(x, [1, 0])),
  flip: onPair((x) => ops.flip(x, [0])),
  slice: onPair((x) => ops.slice(x, 0, 0, null)),
  tril: onPair((x) => ops.tril(x)),
  cumsum: onPair((x) => ops.cumsum(x, 1)),
  dropout: onPair((x) => ops.dropout(x, 0.5, 1)),
  clamp: onPair((x) => ops.clamp(x, { min: 0 })),
  silu: onPair((x) => ops.unary('silu', x)),
  add: [pair, (t, { M, N }) => ops.add(t(M, N), t(1, N))],
  'mul, a column': [pair, (t, { M, N }) => ops.mul(t(M, 1), t(M, N))],
  cast: onPair((x) => ops.cast(x, 'f16')),
  clone: onPair((x) => ops.clone(x)),
  softmax: onPair((x) => ops.softmax(x)),
  'softmax over rows': onPair((x) => ops.softmax(x, 0)),
  log_softmax: onPair((x) => ops.logSoftmax(x)),
  sum: onPair((x) => ops.sum(x, { dim: 1 })),
  'sum over rows': onPair((x) => ops.sum(x, { dim: 0 })),
  'sum of all': onPair((x) => ops.sum(x)),
  mean: onPair((x) => ops.mean(x, { dim: 1 })),
  amax: onPair((x) => ops.amax(x, { dim: 1 })),
  amin: onPair((x) => ops.amin(x, { dim: 0 })),
  logsumexp: onPair((x) => ops.logsumexp(x, { dim: 1 })),
  argmax: onPair((x) => ops.argmax(x, 1)),
  'argmax of all': onPair((x) => ops.argmax(x)),
  topk: [{ M: 2, N: 3, K: 2 }, (t, { M, N, K }) => ops.topk(t(M, N), K, 1)],
  norm: onPair((x) => ops.norm(x)),
  l2_distance: [pair, (t, { M, N }) => ops.l2Distance(t(M, N), t(M, N))],
  cross_entropy: [{ M: 2, V: 3 }, (t, { M, V }) => ops.crossEntropy(t(M, V), t.ids(M))],
  distill_loss: [{ M: 2, V: 3 }, (t, { M, V }) => ops.distillLoss(t(M, V), t(M, V).detach(), kl)],
  'distill_loss, weighted': [
    { M: 2, V: 3 },
    (t, { M, V }) => ops.distillLoss(t(M, V), t(M, V).detach(), { ...kl, kind: 'l2' }, t(M).detach()),
  ],
  grad_norm: [pair, (t, { M, N }) => ops.gradNorm([t(M, N), t(N)].map((x) => x.detach()), 1)],
  adamw: [
    pair,
    (t, { M, N }) => {
      const [param, grad, m, v] = [0, 0, 0, 0].map(() => t(M, N).detach());
      const [step, lr] = [0, 0.1].map((value) => fromData(param.backend, [value], []));
      const { stats, before } = ops.beginStep([grad], [step], 1);
      const rates = { betas: [0.9, 0.99], eps: 1e-8, weightDecay: 0 } as const;
      ops.adamwStep({ param, grad, m, v, step, before, index: 0, stats, lr, ...rates });
      return [param, m];
    },
  ],
};

/** Outputs and gradients for gradients of ones, with their shapes; or what was thrown. */
async function outcome(backend: Backend, run: Run, sizes: Sizes): Promise<unknown> {
  const leaves: Tensor[] = [];
  const float = (...shape: number[]) => {
    const leaf = fromData(backend, random(elements(shape), leaves.length + 1), shape);
    leaf.requiresGrad = true;
    leaves.push(leaf);
    return leaf;
  };
  const ids = (...shape: number[]) => fromData(backend, new Int32Array(elements(shape)), shape, 'i32');
  try {
    const outputs = [run(Object.assign(float, { ids }), sizes)].flat() as Tensor[];
    const roots = outputs.filter((o) => o.requiresGrad);
    const ones = roots.map((o) => ops.cast(fromData(backend, new Float32Array(o.size).fill(1), o.shape), o.dtype));
    if (roots.length > 0) backwardFrom(roots, ones, ops.add);
    const made = [...outputs, ...leaves.map((leaf) => leaf.grad)];
    return await Promise.all(made.map(async (t) => t && [t.shape, [...(await t.data())]]));
  } catch (error) {
    if (!(error instanceof MatvlmError)) throw error;
    return `${error.name}: ${error.message}`;
  }
}

function assertAlike(got: unknown, want: unknown, label: string): void {
  if (!Array.isArray(got) || !Array.isArray(want)) return assert.equal(got, want, label);
  assert.is(got.length, want.length, label);
  want.forEach((w, i) => {
    if (typeof w !== 'number') return assertAlike(got[i], w, label);
    const near = Object.is(got[i] + 0, w + 0) || Math.abs(got[i] - w) <= 1e-5 * Math.max(1, Math.abs(w));
    assert.ok(near, `${label}: ${got[i]}, expected ${w}`);
  });
}

for (const [name, [sizes, run]] of Object.entries(CASES)) {
  test(name, async () => {
    for (const empty of Object.keys(sizes)) {
      const now = { ...sizes, [empty]: 0 };
      const want = await outcome(reference, run, now);
      for (const backend of others) {
        assertAlike(await outcome(backend, run, now), want, `${backend.kind} with ${empty} = 0`);
      }
    }
  });
}

test('what sums over nothing give', async () => {
  for (const backend of [reference, ...others]) {
    const t = (...shape: number[]) => fromData(backend, random(elements(shape), 1), shape);
    const noKeys = ops.attention(t(1, 2, 2, 4), t(1, 2, 0, 4), t(1, 2, 0, 4));
    assert.equal([...(await noKeys.data())], new Array(16).fill(0), backend.kind);
    assert.equal(ops.attention(t(1, 2, 2, 0), t(1, 2, 3, 0), t(1, 2, 3, 0)).shape, [1, 2, 2, 0]);
    const [one, none] = [t(2, 3), t(0, 3)];
    assert.equal([...(await ops.sum(none, { dim: 0 }).data())], [0, 0, 0], backend.kind);
    assert.equal([...(await ops.matmul(ops.permute(none, [1, 0]), none).data())], new Array(9).fill(0), backend.kind);
    assert.equal([...(await ops.add(one, one).data())], Array.from(random(6, 1), (v) => 2 * v), 'all works on');
  }
});

test.run();
