import { apply } from '../../engine/apply.ts';
import { isFloat } from '../../engine/dtype.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { defineOp, type HostArg, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { gradientSpecs, type Wanting } from '../common/shapes.ts';
import type { HeadLayout } from './rope.ts';
import { type AttentionAttrs, type AttentionInputs, type AttentionSizes, attentionFlops, attentionSizes } from './shape.ts';
import { checkAttention, countStep, INPUTS, maskSteps } from './shape.ts';
import { backwardLaunches, forwardLaunches } from './variants.ts';

/** What attention may be given beside q, k and v. */
export interface AttentionOptions {
  /** Token i of L sees the first i + n − L + 1 of the n keys: aligned to the end. Default false. */
  readonly causal?: boolean;
  /** Default 1/√Dh. */
  readonly scale?: number;
  /** Where heads and tokens are in q, k and v. Default 'bhld'. */
  readonly layout?: HeadLayout;
  /**
   * (B, S), or (B, H, L, S) where each but S may be 1 for all. Integers and bool: keys with 0 are not seen. Floats are
   * added to the scaled scores, as torch's attn_mask; the mask itself gets no gradient.
   */
  readonly mask?: Tensor | null;
  /**
   * i32 [B], or [1] for all of the batch: how many of the first keys there are, n; none below 0, all above S. What
   * lies behind them is not read, so that k and v may be caches with room to grow: with `causal`, the L tokens of q are
   * the last of the n. n is data: a captured step replays with another n. Such an attention has no gradient.
   */
  readonly keyCount?: Tensor | null;
}

/** Offsets of rows, the keys each sees and their scores, for the reference loops. */
function walker(s: AttentionSizes, attrs: AttentionAttrs, { q, k, mask, keyCount }: AttentionInputs<HostArg>) {
  const group = s.heads / s.kvHeads;
  const keys = (b: number) =>
    keyCount ? Math.max(0, Math.min(keyCount.data[b * countStep(keyCount)], s.keys)) : s.keys;
  const query = (b: number, h: number, i: number) => b * s.heads * s.length * s.dim + h * s.qHead + i * s.qToken;
  const key = (b: number, h: number, j: number) =>
    b * s.kvHeads * s.keys * s.dim + Math.floor(h / group) * s.kHead + j * s.kToken;
  // Scores overflow where those of kernels do.
  const round = q.data instanceof Float64Array ? (x: number) => x : Math.fround;
  const [maskBatch, maskHead, maskToken] = maskSteps(mask, s);
  const masking = (b: number, h: number, i: number, j: number) =>
    mask!.data[b * maskBatch + h * maskHead + i * maskToken + j];
  const added = mask !== undefined && isFloat(mask.dtype);
  const open = (b: number, h: number, i: number, j: number) => !mask || added || masking(b, h, i, j) !== 0;
  return {
    query,
    key,
    open,
    score(b: number, h: number, i: number, j: number): number {
      if (!open(b, h, i, j)) return -Infinity;
      const scaled = round(round(dot(q, query(b, h, i), k, key(b, h, j), s.dim)) * attrs.scale);
      return added ? round(scaled + masking(b, h, i, j)) : scaled;
    },
    /** Keys that there are for token i: causal attention is aligned to the end. */
    end: (b: number, i: number) => (attrs.causal ? Math.max(0, i + 1 + keys(b) - s.length) : keys(b)),
  };
}

function dot(a: HostArg, at: number, b: HostArg, bt: number, n: number): number {
  let sum = 0;
  for (let d = 0; d < n; d++) sum += a.data[at + d] * b.data[bt + d];
  return sum;
}

function forEachRow(s: AttentionSizes, body: (b: number, h: number, i: number, row: number) => void): void {
  let row = 0;
  for (let b = 0; b < s.batch; b++) {
    for (let h = 0; h < s.heads; h++) for (let i = 0; i < s.length; i++) body(b, h, i, row++);
  }
}

/** Sizes, strides and attributes in the order of the C kernels. */
function wasmSizes(s: AttentionSizes, mask: Slot | undefined, { scale, causal }: AttentionAttrs) {
  const sizes = [s.batch, s.heads, s.kvHeads, s.length, s.keys, s.dim, s.qHead, s.qToken, s.kHead, s.kToken] as const;
  return [...sizes, ...maskSteps(mask, s), Number(mask && isFloat(mask.dtype)), scale, Number(causal)] as const;
}

/** Beside o, for the backward, a query's largest score m (WASM, WebGPU: before the scale) and log Σ exp(score − m). */
export const attentionOp = defineOp({
  name: 'attention',
  inputs: INPUTS,
  outputs: ['o', 'stats'],
  shape(inputs, attrs: AttentionAttrs) {
    const s = checkAttention(inputs, attrs);
    return { o: spec(inputs.q.shape, inputs.q.dtype), stats: spec([s.batch, s.heads, s.length, 2]) };
  },
  flops: (inputs, _, attrs) => attentionFlops(inputs, attrs, 2),
  reference(inputs, { o, stats }, attrs) {
    const s = attentionSizes(inputs, attrs.layout);
    const at = walker(s, attrs, inputs);
    const scores = new Float64Array(s.keys);
    forEachRow(s, (b, h, i, row) => {
      const end = at.end(b, i);
      let top = -Infinity;
      for (let j = 0; j < end; j++) {
        scores[j] = at.score(b, h, i, j);
        top = Math.max(top, scores[j]);
      }
      // NaN among the scores is no reason to call the row one without keys.
      const some = top !== -Infinity;
      let sum = 0;
      for (let j = 0; j < end; j++) sum += scores[j] = some ? Math.exp(scores[j] - top) : 0;
      stats.data.set(some ? [top, Math.log(sum)] : [0, 0], 2 * row);
      for (let d = 0; d < s.dim; d++) {
        let value = 0;
        for (let j = 0; j < end; j++) value += scores[j] * inputs.v.data[at.key(b, h, j) + d];
        o.data[at.query(b, h, i) + d] = some ? value / sum : value;
      }
    });
  },
  webgpu: (inputs, outputs, attrs, device) => forwardLaunches(inputs, outputs, attrs, device),
  wasm({ q, k, v, mask, keyCount }, { o, stats }, attrs, { k: kernels, sizes, scratch }) {
    if (!(attrs.scale > 0)) return false;
    const s = attentionSizes({ q, k }, attrs.layout);
    const room = scratch(sizes.attention_scratch(s.length, s.dim));
    kernels.attention(q, k, v, mask, keyCount, countStep(keyCount), o, stats, ...wasmSizes(s, mask, attrs), room);
    return true;
  },
  saves: ['q', 'k', 'v', 'mask', 'o', 'stats'],
  backward({ attrs, saved: { q, k, v, mask, o, stats }, specs, needs, grads }) {
    if (specs.keyCount) throw new ArgumentError('attention: keyCount is for decoding and has no gradient; use a mask');
    const given = { q, k, v, o, stats, grad: grads.o!, mask };
    const { dq, dk, dv } = apply(attentionBackward, given, { ...attrs, wants: needs });
    return { q: dq, k: dk, v: dv };
  },
});

const attentionBackward = defineOp({
  name: 'attention_backward',
  inputs: ['q', 'k', 'v', 'o', 'stats', 'grad', 'mask?'],
  outputs: ['dq?', 'dk?', 'dv?'],
  shape: ({ q, k, v }, { wants }: Wanting<AttentionAttrs>) => gradientSpecs({ q, k, v }, wants),
  flops: (inputs, _, attrs) => attentionFlops(inputs, attrs, 5),
  reference(inputs, { dq, dk, dv }, attrs) {
    const { q, k, v, o, stats, grad } = inputs;
    const s = attentionSizes(inputs, attrs.layout);
    const at = walker(s, attrs, inputs);
    for (const sums of [dq, dk, dv]) sums?.data.fill(0);
    forEachRow(s, (b, h, i, row) => {
      const x = at.query(b, h, i);
      const delta = dot(grad, x, o, x, s.dim);
      for (let j = 0; j < at.end(b, i); j++) {
        const y = at.key(b, h, j);
        const p = Math.exp(at.score(b, h, i, j) - stats.data[2 * row] - stats.data[2 * row + 1]);
        const ds = at.open(b, h, i, j) ? p * (dot(grad, x, v, y, s.dim) - delta) * attrs.scale : 0;
        for (let d = 0; d < s.dim; d++) {
          if (dq) dq.data[x + d] += ds * k.data[y + d];
          if (dk) dk.data[y + d] += ds * q.data[x + d];
          if (dv) dv.data[y + d] += p * grad.data[x + d];
        }
      }
    });
  },
  webgpu: (inputs, outputs, attrs, device) => backwardLaunches(inputs, outputs, attrs, device),
  wasm({ q, k, v, o, stats, grad, mask }, { dq, dk, dv }, attrs, { k: kernels, sizes, scratch }) {
    if (!(attrs.scale > 0) || q.size === 0) return false;
    const s = attentionSizes({ q, k }, attrs.layout);
    const room = scratch(sizes.attention_scratch(s.length, s.dim));
    kernels.attention_backward(q, k, v, mask, o, stats, grad, dq, dk, dv, ...wasmSizes(s, mask, attrs), room);
    return true;
  },
});

/**
 * Scaled dot-product attention, softmax(scale · q kᵀ) v, with grouped heads: query head h reads key head
 * ⌊h / (H/KV)⌋. A row that sees no key gives 0, and no gradient. A masked key has the weight 0, which times a value
 * that is not finite is NaN, as in torch; a key after a causal token, or behind `keyCount`, does not reach it at all.
 * @param q f32, f16 or bf16 (B, H, L, Dh); with layout 'blhd' (B, L, H, Dh). Dh ≤ 256
 * @param k likewise (B, KV, S, Dh) or (B, S, KV, Dh), KV a divisor of H
 * @param v as k. Scores and sums are f32, whatever q, k and v are stored in
 * @returns shape and dtype of q
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const { causal = false, scale = 1 / Math.sqrt(q.shape[q.shape.length - 1] || 1), layout = 'bhld' } = options;
  const inputs = { q, k, v, mask: options.mask ?? undefined, keyCount: options.keyCount ?? undefined };
  return apply(attentionOp, inputs, { causal, scale, layout }).o;
}
