import { apply } from '../../engine/apply.ts';
import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import { elements } from '../../engine/backend.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type HostArg, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { noGrad } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectRank, expectShape } from '../common/shapes.ts';
import { attentionOp } from './attention.ts';
import { ropeOp } from './rope.ts';
import { attending, type StepAttrs } from './shape.ts';
import { stepLaunches } from './variants.ts';

const OP = 'attention_step';

/** The attributes of `rope` that it goes by. */
const turning = ({ rotaryDim, theta }: StepAttrs) =>
  ({ rotaryDim, theta, offset: 0, layout: 'blhd', inverse: false }) as const;

const attentionStepOp = /* @__PURE__ */ defineOp({
  name: OP,
  inputs: ['q', 'k', 'v', 'keys', 'values', 'first', 'end'],
  outputs: ['o'],
  mutates: ['keys', 'values'],
  shape({ q, k, v, keys, values, first, end }, { rotaryDim, theta, scale }: StepAttrs) {
    for (const [name, { dtype }] of Object.entries({ q, k, v, keys, values })) expectDType(OP, name, dtype, 'f32');
    for (const [name, position] of Object.entries({ first, end })) {
      expectDType(OP, name, position.dtype, 'i32');
      expectShape(OP, name, position, [1]);
    }
    expectRank(OP, 'q', q, 4);
    expectRank(OP, 'keys', keys, 4);
    const [b, , heads, d] = q.shape;
    const [, room, kv] = keys.shape;
    expectShape(OP, 'q', q, [b, 1, heads, d]);
    for (const [name, given] of Object.entries({ k, v })) expectShape(OP, name, given, [b, 1, kv, d]);
    for (const [name, given] of Object.entries({ keys, values })) expectShape(OP, name, given, [b, room, kv, d]);
    if (heads % kv !== 0 || room === 0) {
      throw new ShapeError(`${OP}: caches of ${room} positions and ${kv} heads do not serve ${heads} heads of q`);
    }
    expectWhole(OP, 'rotaryDim', rotaryDim, 2, d);
    if (rotaryDim % 2 !== 0) throw new ShapeError(`${OP}: rotaryDim is ${rotaryDim}, expected an even number`);
    expectFinite(OP, 'theta', theta, Number.MIN_VALUE);
    expectFinite(OP, 'scale', scale, Number.MIN_VALUE);
    return { o: spec(q.shape) };
  },
  // As if the caches were full: how far they are is data.
  flops: ({ q, keys }) => 4 * elements(q.shape) * keys.shape[1],
  reference({ q, k, v, keys, values, first, end }, { o }, attrs) {
    const turned = (x: HostArg): HostArg => {
      const y = { ...x, data: x.data.slice() };
      ropeOp.reference({ x, start: first }, { y }, turning(attrs));
      return y;
    };
    const [b, , kv, d] = k.shape;
    const room = keys.shape[1];
    const at = Math.min(Math.max(first.data[0], 0), room - 1);
    for (const [from, into] of [[turned(k), keys], [v, values]]) {
      for (let i = 0; i < b; i++) {
        into.data.set(from.data.subarray(i * kv * d, (i + 1) * kv * d), (i * room + at) * kv * d);
      }
    }
    const stats = { ...spec([b, q.shape[2], 1, 2]), size: 2 * b * q.shape[2], data: new Float64Array(2 * b * q.shape[2]) };
    attentionOp.reference({ q: turned(q), k: keys, v: values, keyCount: end }, { o, stats }, attending(attrs));
  },
  webgpu: (inputs, outputs, attrs, device) => stepLaunches(inputs, outputs, attrs, device),
  wasm({ q, k, v, keys, values, first, end }, { o }, attrs, device) {
    const turned = (x: Slot): Slot => {
      const y = { ...x, slot: device.scratch(4 * x.size).slot };
      ropeOp.wasm!({ x, start: first }, { y }, turning(attrs), device);
      return y;
    };
    const [b, , kv, d] = k.shape;
    const [room, row] = [keys.shape[1], kv * d];
    for (const [from, into] of [[turned(k), keys], [v, values]]) {
      device.k.strided_copy(from, into, 4, 1, 1, b, row, 0, 0, row, 1, 0, 0, room * row, 1, first, row, room - 1);
    }
    const size = 2 * b * q.shape[2];
    const stats: Slot = { ...spec([b, q.shape[2], 1, 2]), size, slot: device.scratch(4 * size).slot };
    return attentionOp.wasm!({ q: turned(q), k: keys, v: values, keyCount: end }, { o, stats }, attending(attrs), device);
  },
});

/** What `attentionStep_` takes. */
export interface AttentionStepInputs {
  /** (B, 1, H, Dh) f32 */
  readonly q: Tensor;
  /** (B, 1, KV, Dh) f32, KV a divisor of H, and so is v */
  readonly k: Tensor;
  readonly v: Tensor;
  /** (B, room, KV, Dh) f32, written in place, and so is values */
  readonly keys: Tensor;
  readonly values: Tensor;
  /** i32 [1]: the position of the token, at which the caches are written; it is clamped to 0 … room − 1 there. */
  readonly first: Tensor;
  /** i32 [1]: first + 1, how many positions the token sees. */
  readonly end: Tensor;
}

/**
 * Causal attention of one new token a row, all in one launch on WebGPU: q and k turn by the token's position, as in
 * `rope`; k and v go to the caches there; the token attends to all that these hold up to it. It has no gradient.
 * @param rotaryDim how many of the head's dimensions turn, from the first
 * @param theta base of the frequencies, as in `rope`
 * @param scale of scores; default 1/√Dh
 * @returns (B, 1, H, Dh)
 */
export function attentionStep_(
  inputs: AttentionStepInputs,
  { rotaryDim, theta, scale }: { readonly rotaryDim: number; readonly theta: number; readonly scale?: number },
): Tensor {
  const attrs = { rotaryDim, theta, scale: scale ?? 1 / Math.sqrt(inputs.q.shape.at(-1) || 1) };
  return noGrad(() => apply(attentionStepOp, { ...inputs }, attrs).o);
}
