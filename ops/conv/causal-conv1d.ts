import { apply } from '../../engine/apply.ts';
import { expectOneOf } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import type { WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type HostArg, hostSums, type Named, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { dsilu, silu as siluOf } from '../common/math.ts';
import { expectFloats, expectRank, expectShape, gradientSpecs, show, type Wanting } from '../common/shapes.ts';
import { foldLaunches, sumOver } from '../reduce/fold.ts';
import backwardCode from './causal-conv1d-backward.wgsl';
import sharedCode from './causal-conv1d.wgsl';

/** (B, C, L) as torch has it, or channels last (B, L, C). */
export type ConvLayout = 'bcl' | 'blc';

export interface CausalConv1dOptions {
  /** Applied to the sum; default none. */
  readonly activation?: null | 'silu';
  /** Default 'bcl'. */
  readonly layout?: ConvLayout;
  /** The last K−1 columns before the sequence: (B, C, K−1), or (B, K−1, C) with 'blc'. Default zeros. */
  readonly initial?: Tensor | null;
}

interface ConvAttrs {
  readonly silu: boolean;
  readonly layout: ConvLayout;
}

/** Positions that a thread of the backward walks in one go, and threads a channel at most. */
const SEGMENT = 32;
const MAX_PARTS = 256;
/** Taps that kernels take at most. */
const MAX_WIDTH = 8;

type Sizes = ReturnType<typeof sizesOf>;

export function sizesOf({ x, w }: { readonly x: Spec; readonly w: Spec }, layout: ConvLayout) {
  const [channels, width] = w.shape;
  return { batch: x.shape[0], channels, length: x.shape[layout === 'bcl' ? 2 : 1], width };
}

/** @throws ShapeError, DTypeError unless all are floats, w (C, K) of at most 8 taps, and bias (C) */
export function checkTaps(op: string, operands: Named<'x' | 'w' | 'bias?', Spec>, channels: number): void {
  const { x, w, bias } = operands;
  expectFloats(op, operands);
  expectRank(op, 'w', w, 2);
  if (w.shape[0] !== channels || w.shape[1] < 1 || w.shape[1] > MAX_WIDTH) {
    const want = `[${channels}, 1…${MAX_WIDTH}] for the channels of x ${show(x.shape)}`;
    throw new ShapeError(`${op}: w has shape ${show(w.shape)}, expected ${want}`);
  }
  if (bias) expectShape(op, 'bias', bias, [channels]);
}

/** A tap of an output: what it sees, and where that lies in x, or else in the initial columns. */
interface Tap {
  readonly value: number;
  readonly inX: boolean;
  readonly place: number;
}

/** Calls back for each output with its channel, its index, its sum and its taps. */
function eachSum(
  { x, w, bias, initial }: Named<'x' | 'w' | 'bias?' | 'initial?', HostArg>,
  { batch, channels, length, width }: Sizes,
  layout: ConvLayout,
  visit: (c: number, at: number, sum: number, tap: (k: number) => Tap) => void,
): void {
  const index = (b: number, c: number, l: number, positions: number) =>
    layout === 'bcl' ? (b * channels + c) * positions + l : (b * positions + l) * channels + c;
  for (let b = 0; b < batch; b++) {
    for (let c = 0; c < channels; c++) {
      for (let l = 0; l < length; l++) {
        const tap = (k: number) => {
          const from = l + k - width + 1;
          const inX = from >= 0;
          const place = inX ? index(b, c, from, length) : index(b, c, from + width - 1, width - 1);
          return { value: inX ? x.data[place] : (initial?.data[place] ?? 0), inX, place };
        };
        let sum = bias ? bias.data[c] : 0;
        for (let k = 0; k < width; k++) sum += w.data[c * width + k] * tap(k).value;
        visit(c, index(b, c, l, length), sum, tap);
      }
    }
  }
}

/** What all kernels on WebGPU are told of a convolution. */
export function shared({ channels, length, width }: Sizes, { layout, silu }: ConvAttrs) {
  return {
    constants: { K: width, CHANNELS_LAST: Number(layout === 'blc'), SILU: Number(silu) },
    params: { channels, length },
    key: `causal_conv1d ${layout} ${width} ${silu ? 'silu' : ''}`,
    declarations: () => sharedCode,
  };
}

/** The last arguments of the C kernels. */
function lastOf({ batch, channels, length, width }: Sizes, { layout, silu }: ConvAttrs, { sizes, scratch }: WasmPlanner) {
  const last = Number(layout === 'blc');
  const own = scratch(sizes.causal_conv1d_scratch(channels, length, width, last));
  return [batch, channels, length, width, last, Number(silu), own] as const;
}

export const conv = /* @__PURE__ */ defineOp({
  name: 'causal_conv1d',
  inputs: ['x', 'w', 'bias?', 'initial?'],
  outputs: ['y'],
  shape({ initial, ...operands }, { layout }: ConvAttrs) {
    const { x } = operands;
    expectRank('causal_conv1d', 'x', x, 3);
    checkTaps('causal_conv1d', operands, x.shape[layout === 'bcl' ? 1 : 2]);
    const { batch, channels, width } = sizesOf(operands, layout);
    expectFloats('causal_conv1d', { initial });
    const before = layout === 'bcl' ? [batch, channels, width - 1] : [batch, width - 1, channels];
    if (initial) expectShape('causal_conv1d', 'initial', initial, before);
    return { y: spec(x.shape, x.dtype) };
  },
  reference(operands, { y }, { layout, silu }) {
    eachSum(operands, sizesOf(operands, layout), layout, (_, at, sum) => {
      y.data[at] = silu ? siluOf(sum) : sum;
    });
  },
  webgpu({ x, w, bias, initial }, { y }, attrs, device) {
    return [launchElements(device, y.size, {
      ...shared(sizesOf({ x, w }, attrs.layout), attrs),
      reads: { x, w, bias, initial },
      writes: { y },
      body: () => /* wgsl */ `let at = place(i, params.length);
  store_y(i, activated(sum_at(at.b, at.c, at.l)));`,
    })];
  },
  wasm({ x, w, bias, initial }, { y }, attrs, device) {
    device.k.causal_conv1d(x, w, bias, initial, y, ...lastOf(sizesOf({ x, w }, attrs.layout), attrs, device));
    return true;
  },
  saves: ['x', 'w', 'bias', 'initial'],
  backward({ attrs, saved: { x, w, bias, initial }, needs, grads: { y: dy } }) {
    const formed = apply(convBackward, { x, w, dy: dy!, bias, initial }, { ...attrs, wants: needs });
    return { x: formed.dx, w: formed.dw, bias: formed.dbias, initial: formed.dinitial };
  },
});

const convBackward = /* @__PURE__ */ defineOp({
  name: 'causal_conv1d_backward',
  inputs: ['x', 'w', 'dy', 'bias?', 'initial?'],
  outputs: ['dx?', 'dw?', 'dbias?', 'dinitial?'],
  shape: ({ dy: _, ...inputs }, { wants }: Wanting<ConvAttrs>) => gradientSpecs(inputs, wants),
  reference({ dy, ...operands }, outputs, { layout, silu }) {
    const { w } = operands;
    const width = w.shape[1];
    const sums = hostSums(Object.values(outputs));
    const named = Object.keys(outputs).map((name, i) => [name, sums[i].data]);
    const { dx, dw, dbias, dinitial }: Partial<Record<keyof typeof outputs, Float64Array>> = Object.fromEntries(named);
    eachSum(operands, sizesOf(operands, layout), layout, (c, at, sum, tap) => {
      const g = dy.data[at] * (silu ? dsilu(sum) : 1);
      if (dbias) dbias[c] += g;
      for (let k = 0; k < width; k++) {
        const { value, inX, place } = tap(k);
        if (dw) dw[c * width + k] += g * value;
        const before = inX ? dx : dinitial;
        if (before) before[place] += g * w.data[c * width + k];
      }
    });
    Object.values(outputs).forEach(({ data }, i) => data.set(sums[i].data));
  },
  webgpu({ x, w, dy, bias, initial }, { dx, dw, dbias, dinitial }, attrs, device) {
    const s = sizesOf({ x, w }, attrs.layout);
    const { constants, params, ...own } = shared(s, attrs);
    const segments = s.batch * Math.max(1, Math.ceil(s.length / SEGMENT));
    const parts = dw || dbias ? Math.min(segments, MAX_PARTS) : segments;
    const sums = dw || dbias ? device.scratch([parts, s.channels * (s.width + 1)]) : undefined;
    const walk = launchElements(device, parts * s.channels, {
      key: `${own.key} backward`,
      reads: { x, w, dy, bias, initial },
      writes: { dx, dinitial, sums },
      constants: { ...constants, WANT_X: dx || dinitial ? 1 : 0 },
      params: { ...params, batch: s.batch, segment: SEGMENT, parts },
      declarations: () => sharedCode + backwardCode,
      body: () => 'walk(i % params.channels, i / params.channels);',
    });
    if (!sums) return [walk];
    const total = foldLaunches(device, [0], {
      name: 'causal_conv1d weights',
      reads: { sums },
      writes: { dw, dbias },
      params: { taps: w.size },
      fold: sumOver('f32', 'load_sums(i)'),
      store: 'if (o < params.taps) { store_dw(o, a); } else { store_dbias(o - params.taps, a); }',
    });
    return [walk, ...total];
  },
  wasm({ x, w, dy, bias, initial }, { dx, dw, dbias, dinitial }, attrs, device) {
    const last = lastOf(sizesOf({ x, w }, attrs.layout), attrs, device);
    device.k.causal_conv1d_backward(x, w, bias, initial, dy, dx, dw, dbias, dinitial, ...last);
    return true;
  },
});

/**
 * Depthwise causal convolution: y[l] = act(bias + Σ_k w[k] · x[l − K + 1 + k]), with the initial columns (or zeros)
 * before the sequence. Differentiable in all of them, which may be floats of any width; computed in f32.
 * @param x (B, C, L), or (B, L, C) with layout 'blc'
 * @param w (C, K), K ≤ 8
 * @param bias (C) or null
 * @returns y of x's shape and dtype
 */
export function causalConv1d(x: Tensor, w: Tensor, bias: Tensor | null, options: CausalConv1dOptions = {}): Tensor {
  const { activation = null, layout = 'bcl', initial = null } = options;
  expectOneOf('causal_conv1d', 'activation', activation, null, 'silu');
  expectOneOf('causal_conv1d', 'layout', layout, 'bcl', 'blc');
  const attrs = { silu: activation === 'silu', layout };
  return apply(conv, { x, w, bias: bias ?? undefined, initial: initial ?? undefined }, attrs).y;
}
