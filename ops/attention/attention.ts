import { ArgumentError } from '../../engine/errors.ts';
import { apply, defineOp, type HostArg, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { backwardLaunches, forwardLaunches } from './kernels.ts';
import type { AttentionAttrs, AttentionSizes } from './shape.ts';
import { attentionSizes, checkAttention, optionalInputs } from './shape.ts';
import type { HeadLayout } from './rope.ts';

export interface AttentionOptions {
  /** Token i of L sees keys up to i + S − L: aligned to the end. Default false. */
  readonly causal?: boolean;
  /** Default 1/√Dh. */
  readonly scale?: number;
  /** Default 'bhld'. */
  readonly layout?: HeadLayout;
  /** i32 [1]: only that many of the first keys exist (none below 0, all above S); S is the room. Without gradients. */
  readonly keyCount?: Tensor;
}

interface BackwardAttrs extends AttentionAttrs {
  /** Which of dq, dk, dv come out. */
  readonly wants: readonly [boolean, boolean, boolean];
}

/** Offsets of rows, the keys each sees and their scores, for the reference loops. */
function walker(s: AttentionSizes, attrs: AttentionAttrs, [q, k]: readonly HostArg[], mask?: HostArg, count?: HostArg) {
  const group = s.heads / s.kvHeads;
  const keys = count ? Math.max(0, Math.min(count.data[0], s.keys)) : s.keys;
  const query = (b: number, h: number, i: number) => b * s.heads * s.length * s.dim + h * s.qHead + i * s.qToken;
  const key = (b: number, h: number, j: number) =>
    b * s.kvHeads * s.keys * s.dim + Math.floor(h / group) * s.kHead + j * s.kToken;
  // Scores overflow where those of kernels do.
  const round = q.data instanceof Float64Array ? (x: number) => x : Math.fround;
  const open = (b: number, j: number) => !mask || mask.data[b * s.keys + j] !== 0;
  return {
    keys,
    query,
    key,
    open,
    score: (b: number, h: number, i: number, j: number) =>
      open(b, j) ? round(round(dot(q, query(b, h, i), k, key(b, h, j), s.dim)) * attrs.scale) : -Infinity,
    /** Keys that there are for token i: causal attention is aligned to the end. */
    end: (i: number) => (attrs.causal ? Math.max(0, i + 1 + keys - s.length) : keys),
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
function wasmSizes(s: AttentionSizes, { scale, causal }: AttentionAttrs) {
  const sizes = [s.batch, s.heads, s.kvHeads, s.length, s.keys, s.dim] as const;
  return [...sizes, s.qHead, s.qToken, s.kHead, s.kToken, scale, Number(causal)] as const;
}

/** Beside o, for the backward, each query's largest score m (WASM, WebGPU: before the scale) and log Σ exp(score − m). */
const attentionOp: Op<AttentionAttrs> = defineOp({
  name: 'attention',
  shape(inputs, attrs) {
    const s = checkAttention(inputs, attrs);
    return [spec(inputs[0].shape), spec([s.batch, s.heads, s.length, 2])];
  },
  reference({ inputs, outputs: [o, stats], attrs }) {
    const [q, k, v] = inputs;
    const { mask, count } = optionalInputs(inputs, attrs);
    const s = attentionSizes(q, k, attrs.layout);
    const at = walker(s, attrs, inputs, mask, count);
    const scores = new Float64Array(at.keys);
    forEachRow(s, (b, h, i, row) => {
      let top = -Infinity;
      for (let j = 0; j < at.end(i); j++) {
        scores[j] = at.score(b, h, i, j);
        top = Math.max(top, scores[j]);
      }
      // NaN among the scores is no reason to call the row one without keys.
      const some = top !== -Infinity;
      let sum = 0;
      for (let j = 0; j < at.end(i); j++) sum += scores[j] = some ? Math.exp(scores[j] - top) : 0;
      stats.data.set(some ? [top, Math.log(sum)] : [0, 0], 2 * row);
      for (let d = 0; d < s.dim; d++) {
        let value = 0;
        for (let j = 0; j < at.end(i); j++) value += scores[j] * v.data[at.key(b, h, j) + d];
        o.data[at.query(b, h, i) + d] = some ? value / sum : value;
      }
    });
  },
  webgpu({ inputs, outputs, attrs, caps }) {
    return forwardLaunches(attentionSizes(inputs[0], inputs[1], attrs.layout), attrs, inputs, outputs, caps);
  },
  wasm({ inputs, outputs: [o, stats], attrs, k: kernels, scratch }) {
    if (!(attrs.scale > 0)) return false;
    const [q, k, v] = inputs;
    const { mask, count } = optionalInputs(inputs, attrs);
    const s = attentionSizes(q, k, attrs.layout);
    const room = scratch(kernels.attention_scratch(s.length, s.dim));
    const given = [q.ptr, k.ptr, v.ptr, mask?.ptr ?? 0, count?.ptr ?? 0, o.ptr, stats.ptr] as const;
    kernels.attention(...given, ...wasmSizes(s, attrs), room);
    return true;
  },
  saves: { inputs: [0, 1, 2, 3], outputs: [0, 1] },
  backward({ attrs, inputSpecs, needs, grads: [grad], input, output }) {
    if (attrs.counted) throw new ArgumentError('attention: keyCount is for decoding and has no gradient; use a mask');
    const rest = attrs.masked ? [input(3)] : [];
    const inputs = [input(0), input(1), input(2), ...rest, output(0), output(1), grad!];
    const wants = [needs[0], needs[1], needs[2]] as const;
    const formed = apply(attentionBackward, inputs, { ...attrs, wants });
    let next = 0;
    return inputSpecs.map((_, i) => (i < 3 && wants[i] ? formed[next++] : null));
  },
  flops: ({ inputs: [q, k], attrs }) => {
    const s = attentionSizes(q, k, attrs.layout);
    return 4 * q.size * s.keys;
  },
});

const attentionBackward: Op<BackwardAttrs> = defineOp({
  name: 'attention_backward',
  shape([q, k, v], { wants }) {
    return [q, k, v].filter((_, i) => wants[i]).map((t) => spec(t.shape));
  },
  reference({ inputs, outputs, attrs }) {
    const [q, k, v] = inputs;
    const [o, stats, grad] = inputs.slice(-3);
    const s = attentionSizes(q, k, attrs.layout);
    const at = walker(s, attrs, inputs, attrs.masked ? inputs[3] : undefined);
    let next = 0;
    const [dq, dk, dv] = attrs.wants.map((want) => (want ? outputs[next++].data.fill(0) : undefined));
    forEachRow(s, (b, h, i, row) => {
      const x = at.query(b, h, i);
      const delta = dot(grad, x, o, x, s.dim);
      for (let j = 0; j < at.end(i); j++) {
        const y = at.key(b, h, j);
        const p = Math.exp(at.score(b, h, i, j) - stats.data[2 * row] - stats.data[2 * row + 1]);
        const ds = at.open(b, j) ? p * (dot(grad, x, v, y, s.dim) - delta) * attrs.scale : 0;
        for (let d = 0; d < s.dim; d++) {
          if (dq) dq[x + d] += ds * k.data[y + d];
          if (dk) dk[y + d] += ds * q.data[x + d];
          if (dv) dv[y + d] += p * grad.data[x + d];
        }
      }
    });
  },
  webgpu({ inputs, outputs, attrs, caps, scratch }) {
    const [q, k, v] = inputs;
    const [o, stats, grad] = inputs.slice(-3);
    const s = attentionSizes(q, k, attrs.layout);
    let next = 0;
    const [dq, dk, dv] = attrs.wants.map((want) => (want ? outputs[next++] : undefined));
    const keyed = dk !== undefined || dv !== undefined;
    const args = {
      ...{ q, k, v, o, stats, grad },
      mask: attrs.masked ? inputs[3] : undefined,
      dq: dq ?? scratch(q.shape),
      dk: keyed ? (dk ?? scratch(k.shape)) : undefined,
      dv: keyed ? (dv ?? scratch(v.shape)) : undefined,
      rows: scratch([...stats.shape.slice(0, -1), 4]),
    };
    return backwardLaunches(s, attrs, args, caps);
  },
  wasm({ inputs, outputs, attrs, k: kernels, scratch }) {
    if (!(attrs.scale > 0)) return false;
    const [q, k, v] = inputs;
    const [o, stats, grad] = inputs.slice(-3);
    const s = attentionSizes(q, k, attrs.layout);
    let next = 0;
    const [dq, dk, dv] = attrs.wants.map((want) => (want ? outputs[next++].ptr : 0));
    const room = scratch(kernels.attention_scratch(s.length, s.dim));
    const given = [q.ptr, k.ptr, v.ptr, attrs.masked ? inputs[3].ptr : 0, o.ptr, stats.ptr, grad.ptr] as const;
    kernels.attention_backward(...given, dq, dk, dv, ...wasmSizes(s, attrs), room);
    return true;
  },
  flops: ({ inputs: [q, k], attrs }) => 10 * q.size * attentionSizes(q, k, attrs.layout).keys,
});

/**
 * Scaled dot-product attention, softmax(scale · q kᵀ) v, with grouped heads: query head h reads key head
 * ⌊h / (H/KV)⌋. A row that sees no key gives 0, and no gradient. A masked key has the weight 0, which times a value
 * that is not finite is NaN, as in torch; a key after a causal token does not reach it at all.
 * @param q f32 (B, H, L, Dh); with layout 'blhd' (B, L, H, Dh). Dh ≤ 256
 * @param k f32 (B, KV, S, Dh) or (B, S, KV, Dh), KV a divisor of H; v likewise
 * @param mask i32 or bool (B, S); keys with 0 are not seen
 * @returns the shape of q
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}, mask?: Tensor): Tensor {
  const { causal = false, scale = 1 / Math.sqrt(q.shape[q.shape.length - 1] || 1), layout = 'bhld', keyCount } = options;
  const inputs = [q, k, v, mask, keyCount].filter((tensor) => tensor != null);
  const attrs = { causal, scale, layout, masked: mask != null, counted: keyCount != null };
  return apply(attentionOp, inputs, attrs)[0];
}
