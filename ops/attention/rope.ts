import { apply } from '../../engine/apply.ts';
import { expectFinite, expectOneOf, expectWhole } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { show } from '../common/shapes.ts';

/** Where the heads are: (…, H, L, Dh) or token-major (…, L, H, Dh). */
export type HeadLayout = 'bhld' | 'blhd';

export interface RopeOptions {
  /** How many of the head's dimensions turn, from the first; even. Default: all. */
  readonly rotaryDim?: number;
  /** Base of the frequencies theta^(−2i/rotaryDim). Default 10000. */
  readonly theta?: number;
  /** Position of the first token, ≥ 0. Default 0. */
  readonly offset?: number;
  /** Default 'bhld'. */
  readonly layout?: HeadLayout;
  /**
   * i32 [B], B x's first dimension, or [1] for all: added to the offset. It is data on the device: a captured step
   * replays with other positions. A start below 0 puts tokens before position 0.
   */
  readonly start?: Tensor | null;
}

interface RopeAttrs extends Omit<Required<RopeOptions>, 'start'> {
  /** Turn the other way: the backward. */
  readonly inverse: boolean;
}

/** The size of a row, tokens, and rows of one token that lie next to each other. */
function sizesOf({ shape }: Spec, layout: HeadLayout): { dim: number; length: number; inner: number } {
  const [third, second, dim] = [shape.at(-3)!, shape.at(-2)!, shape.at(-1)!];
  return layout === 'bhld' ? { dim, length: second, inner: 1 } : { dim, length: third, inner: second };
}

/**
 * Angles are fixed-point fractions of a turn, 48 bits a frequency: position × frequency wraps exactly where a product
 * of floats would lose the angle at large positions, and the octant is known without a rounding. Sine and cosine are
 * Taylor polynomials on ±π/4; WGSL promises only 2⁻¹¹ of its own.
 */
export const COS_SIN = /* wgsl */ `
fn cos_sin(position: u32, pair: u32) -> vec2<f32> {
  let f = FREQUENCIES[pair];
  let turn = position * f.x + (position >> 16u) * f.y + (((position & 0xffffu) * f.y) >> 16u);
  let quarter = (turn + 0x20000000u) >> 30u;
  let a = f32(bitcast<i32>(turn - (quarter << 30u))) * 1.4629180792671596e-9;
  let z = a * a;
  let s = a * (1.0 + z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z / 362880.0))));
  let c = 1.0 + z * (-0.5 + z * (1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40320.0))));
  let r = select(vec2(c, s), vec2(-s, c), (quarter & 1u) == 1u);
  return select(r, -r, (quarter & 2u) == 2u);
}

// The pair (a, b) turned by the angle of position ahead + start, which may lie before position 0.
fn turned(a: f32, b: f32, ahead: u32, start: i32, pair: u32, sign: f32) -> vec2<f32> {
  let front = ahead + u32(max(start, 0));
  let back = bitcast<u32>(-min(start, 0));
  let r = cos_sin(select(front - back, back - front, back > front), pair);
  let s = select(sign, -sign, back > front) * r.y;
  return vec2(a * r.x - b * s, b * r.x + a * s);
}
`;

/** A thread for each pair that turns and each element that does not. */
const BODY = /* wgsl */ `
  let items = params.dim - HALF;
  let row = i / items;
  let j = i - row * items;
  let at = row * params.dim + j;
  if (j >= HALF) {
    store_y(at + HALF, load_x(at + HALF));
    return;
  }
  let ahead = (row / params.inner) % params.length + params.offset;
  let pair = turned(load_x(at), load_x(at + HALF), ahead, i32(load_start(row / params.each)), j, params.sign);
  store_y(at, pair.x);
  store_y(at + HALF, pair.y);`;

/** WGSL of HALF, how many pairs turn, and of their theta^(−2i/n) radians as 48-bit fractions of a turn: 32 and 16 bits. */
export function frequencyTable(rotaryDim: number, theta: number): string {
  const entries: string[] = [];
  for (let i = 0; i < rotaryDim / 2; i++) {
    const turns = (theta ** ((-2 * i) / rotaryDim) / (2 * Math.PI)) % 1;
    const high = Math.floor(turns * 2 ** 32);
    const low = Math.floor((turns * 2 ** 32 - high) * 2 ** 16);
    entries.push(`vec2<u32>(${high}u, ${low}u)`);
  }
  return `const HALF = ${rotaryDim / 2}u;
const FREQUENCIES = array<vec2<u32>, HALF>(${entries.join(', ')});\n`;
}

export const ropeOp: Op<RopeAttrs, 'x' | 'start?', 'y'> = defineOp({
  name: 'rope',
  inputs: ['x', 'start?'],
  outputs: ['y'],
  shape({ x, start }, { rotaryDim, theta, offset, layout }: RopeAttrs) {
    expectDType('rope', 'x', x.dtype, ...FLOATS);
    const least = layout === 'bhld' ? 2 : 3;
    if (x.shape.length < least) {
      throw new ShapeError(`rope: x has shape ${show(x.shape)}, expected at least ${least} dimensions for ${layout}`);
    }
    expectWhole('rope', 'rotaryDim', rotaryDim, 2);
    if (rotaryDim % 2 !== 0 || rotaryDim > x.shape.at(-1)!) {
      throw new ShapeError(
        `rope: rotaryDim ${rotaryDim} must be even and at most the last dimension of x ${show(x.shape)}`,
      );
    }
    expectWhole('rope', 'offset', offset, 0, 2 ** 32 - 1);
    expectOneOf('rope', 'layout', layout, 'bhld', 'blhd');
    expectFinite('rope', 'theta', theta, Number.MIN_VALUE);
    if (start) {
      expectDType('rope', 'start', start.dtype, 'i32');
      const batch = x.shape.length > least ? x.shape[0] : 1;
      if (start.shape.length !== 1 || (start.shape[0] !== 1 && start.shape[0] !== batch)) {
        const want = `[1], or one for each of the batch of x ${show(x.shape)}`;
        throw new ShapeError(`rope: start has shape ${show(start.shape)}, expected ${want}`);
      }
    }
    return { y: spec(x.shape, x.dtype) };
  },
  reference({ x, start }, { y }, { rotaryDim, theta, offset, layout, inverse }) {
    const { dim, length, inner } = sizesOf(x, layout);
    const half = rotaryDim / 2;
    const each = x.size / dim / (start?.size ?? 1);
    for (let row = 0; row * dim < x.size; row++) {
      const first = offset + (start ? start.data[Math.floor(row / each)] : 0);
      const position = (Math.floor(row / inner) % length) + first;
      for (let j = 0; j < half; j++) {
        const angle = position * theta ** ((-2 * j) / rotaryDim);
        const c = Math.cos(angle);
        const s = inverse ? -Math.sin(angle) : Math.sin(angle);
        const a = x.data[row * dim + j];
        const b = x.data[row * dim + j + half];
        y.data[row * dim + j] = a * c - b * s;
        y.data[row * dim + j + half] = b * c + a * s;
      }
      for (let j = rotaryDim; j < dim; j++) y.data[row * dim + j] = x.data[row * dim + j];
    }
  },
  webgpu({ x, start }, { y }, { rotaryDim, theta, offset, layout, inverse }, device) {
    const { dim, length, inner } = sizesOf(y, layout);
    const rows = y.size / dim;
    const sign = ['f32', inverse ? -1 : 1] as const;
    return [launchElements(device, rows * (dim - rotaryDim / 2), {
      key: `rope.${rotaryDim}.${theta}`,
      reads: { x, start },
      writes: { y },
      params: { dim, length, inner, offset, each: rows / (start?.size ?? 1), sign },
      declarations: () => frequencyTable(rotaryDim, theta) + COS_SIN,
      body: () => BODY,
    })];
  },
  wasm({ x, start }, { y }, { rotaryDim, theta, offset, layout, inverse }, { k, sizes, scratch }) {
    const { dim, length, inner } = sizesOf(y, layout);
    const starts = start?.size ?? 1;
    const size = y.size / starts;
    const table = scratch(sizes.rope_scratch(length, rotaryDim));
    const shape = [size / dim, dim, length, inner, rotaryDim] as const;
    const how = [theta ** (-2 / rotaryDim), offset, Number(inverse), table] as const;
    for (let b = 0; b < starts; b++) {
      k.rope(at(x, 4 * b * size), start && at(start, 4 * b), at(y, 4 * b * size), ...shape, ...how);
    }
    return true;
  },
  saves: ['start'],
  backward: ({ attrs, saved: { start }, grads }) => ({
    x: apply(ropeOp, { x: grads.y!, start }, { ...attrs, inverse: !attrs.inverse }).y,
  }),
});

/**
 * Rotary position embedding (Su et al. 2021) in Phi's form: of the first `rotaryDim` dimensions of each head, i turns
 * with i + rotaryDim/2 by position · theta^(−2i/rotaryDim); the others pass. Exact at any position below 2³².
 * @param x f32, f16 or bf16 (…, H, L, Dh), or with layout 'blhd' (…, L, H, Dh); token l is at position
 * start + offset + l
 * @returns shape and dtype of x
 */
export function rope(x: Tensor, options: RopeOptions = {}): Tensor {
  const { rotaryDim = x.shape[x.shape.length - 1], theta = 10000, offset = 0, layout = 'bhld', start } = options;
  return apply(ropeOp, { x, start: start ?? undefined }, { rotaryDim, theta, offset, layout, inverse: false }).y;
}
