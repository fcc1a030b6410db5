import { apply } from '../../engine/apply.ts';
import { expectOneOf } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type HostArg, hostSums, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchElements } from '../common/launch-kernel.ts';
import { expectFloats, expectRank, expectShape, show } from '../common/shapes.ts';
import { sumRows } from '../reduce/fold.ts';
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

/** Which gradients to form. */
interface ConvBackwardAttrs extends ConvAttrs {
  readonly wants: { readonly x: boolean; readonly w: boolean; readonly bias: boolean; readonly initial: boolean };
}

/** Positions that a thread of the backward walks in one go, and threads a channel at most. */
const SEGMENT = 32;
const MAX_PARTS = 256;
/** Taps that kernels take at most. */
export const MAX_WIDTH = 8;

interface Sizes {
  readonly batch: number;
  readonly channels: number;
  readonly length: number;
  readonly width: number;
}

function sizes(x: Spec, w: Spec, layout: ConvLayout): Sizes {
  const [batch, second, third] = x.shape;
  const [channels, length] = layout === 'bcl' ? [second, third] : [third, second];
  return { batch, channels, length, width: w.shape[1] };
}

interface HostOperands {
  readonly x: HostArg;
  readonly w: HostArg;
  readonly bias?: HostArg;
  readonly initial?: HostArg;
}

/** Calls back for each output with its index, its sum, and where in x, or else in the initial columns, its taps lie. */
function eachSum(
  { x, w, bias, initial }: HostOperands,
  layout: ConvLayout,
  visit: (c: number, at: number, sum: number, tap: (k: number) => { value: number; inX: boolean; place: number }) => void,
): void {
  const { batch, channels, length, width } = sizes(x, w, layout);
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

/** What all kernels are told of a convolution. */
function shared({ channels, length, width }: Sizes, { layout, silu }: ConvAttrs) {
  return {
    constants: { K: width, CHANNELS_LAST: Number(layout === 'blc'), SILU: Number(silu) },
    params: { channels: ['u32', channels], length: ['u32', length] },
    key: `${layout} ${width} ${silu ? 'silu' : ''}`,
  } as const;
}

const conv = /* @__PURE__ */ defineOp({
  name: 'causal_conv1d',
  inputs: ['x', 'w', 'bias?', 'initial?'],
  outputs: ['y'],
  shape({ x, w, bias, initial }, { layout }: ConvAttrs) {
    expectFloats('causal_conv1d', { x, w, bias, initial });
    expectRank('causal_conv1d', 'x', x, 3);
    expectRank('causal_conv1d', 'w', w, 2);
    const { batch, channels, width } = sizes(x, w, layout);
    if (width < 1 || width > MAX_WIDTH || w.shape[0] !== channels) {
      const want = `[${channels}, 1…${MAX_WIDTH}] for x ${show(x.shape)} in layout ${layout}`;
      throw new ShapeError(`causal_conv1d: w has shape ${show(w.shape)}, expected ${want}`);
    }
    if (bias) expectShape('causal_conv1d', 'bias', bias, [channels]);
    const before = layout === 'bcl' ? [batch, channels, width - 1] : [batch, width - 1, channels];
    if (initial) expectShape('causal_conv1d', 'initial', initial, before);
    return { y: spec(x.shape, x.dtype) };
  },
  reference(operands, { y }, { layout, silu }) {
    eachSum(operands, layout, (_, at, sum) => {
      y.data[at] = silu ? sum / (1 + Math.exp(-sum)) : sum;
    });
  },
  webgpu({ x, w, bias, initial }, { y }, attrs, device) {
    const { key, ...rest } = shared(sizes(x, w, attrs.layout), attrs);
    const kernel = {
      key: `causal_conv1d ${key}`,
      reads: { x, w, bias, initial },
      writes: { y },
      ...rest,
      declarations: () => sharedCode,
      body: () => /* wgsl */ `let at = place(i, params.length);
  store_y(i, activated(sum_at(at.b, at.c, at.l)));`,
    };
    return [launchElements(y.size, kernel, device)];
  },
  wasm({ x, w, bias, initial }, { y }, attrs, { k, sizes: room, scratch }) {
    const { batch, channels, length, width } = sizes(x, w, attrs.layout);
    const last = Number(attrs.layout === 'blc');
    const own = scratch(room.causal_conv1d_scratch(channels, length, width, last));
    k.causal_conv1d(x, w, bias, initial, y, batch, channels, length, width, last, Number(attrs.silu), own);
    return true;
  },
  asStored: { webgpu: ['x', 'w', 'bias', 'initial'] },
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
  shape({ x, w, bias, initial }, { wants }: ConvBackwardAttrs) {
    const like = (wanted: boolean, operand: Spec | undefined) =>
      wanted && operand ? spec(operand.shape, operand.dtype) : undefined;
    return {
      dx: like(wants.x, x),
      dw: like(wants.w, w),
      dbias: like(wants.bias, bias),
      dinitial: like(wants.initial, initial),
    };
  },
  reference({ dy, ...operands }, outputs, { layout, silu }) {
    const { w } = operands;
    const width = w.shape[1];
    const formed = Object.values(outputs);
    const sums = hostSums(formed);
    const sumsOf = (output: HostArg | undefined) => output && sums[formed.indexOf(output)].data;
    const [dx, dw] = [sumsOf(outputs.dx), sumsOf(outputs.dw)];
    const [dbias, dinitial] = [sumsOf(outputs.dbias), sumsOf(outputs.dinitial)];
    eachSum(operands, layout, (c, at, sum, tap) => {
      const sigmoid = 1 / (1 + Math.exp(-sum));
      const g = dy.data[at] * (silu ? sigmoid * (1 + sum * (1 - sigmoid)) : 1);
      if (dbias) dbias[c] += g;
      for (let k = 0; k < width; k++) {
        const { value, inX, place } = tap(k);
        if (dw) dw[c * width + k] += g * value;
        const before = inX ? dx : dinitial;
        if (before) before[place] += g * w.data[c * width + k];
      }
    });
    formed.forEach((output, i) => output.data.set(sums[i].data));
  },
  webgpu: ({ x, w, dy, bias, initial }, outputs, attrs, device) =>
    backwardLaunches({ x, w, dy, bias, initial }, outputs, attrs, device),
  wasm({ x, w, dy, bias, initial }, { dx, dw, dbias, dinitial }, attrs, { k, sizes: room, scratch }) {
    const { batch, channels, length, width } = sizes(x, w, attrs.layout);
    const last = Number(attrs.layout === 'blc');
    const own = scratch(room.causal_conv1d_scratch(channels, length, width, last));
    const all = [batch, channels, length, width, last, Number(attrs.silu), own] as const;
    k.causal_conv1d_backward(x, w, bias, initial, dy, dx, dw, dbias, dinitial, ...all);
    return true;
  },
  asStored: { webgpu: ['x', 'w', 'dy', 'bias', 'initial'] },
});

function backwardLaunches(
  reads: { readonly x: Slot; readonly w: Slot; readonly dy: Slot; readonly bias?: Slot; readonly initial?: Slot },
  { dx, dw, dbias, dinitial }: { readonly dx?: Slot; readonly dw?: Slot; readonly dbias?: Slot; readonly dinitial?: Slot },
  attrs: ConvAttrs,
  device: GpuPlanner,
): Launch[] {
  const s = sizes(reads.x, reads.w, attrs.layout);
  const { key, constants, params } = shared(s, attrs);
  const launches: Launch[] = [];
  if (dx || dw || dbias) {
    const segments = s.batch * Math.ceil(s.length / SEGMENT);
    const parts = Math.max(1, dw || dbias ? Math.min(segments, MAX_PARTS) : segments);
    const [dws, dbiases] = [dw, dbias].map((sum) => sum && device.scratch([parts, sum.size]));
    const walk = {
      key: `causal_conv1d backward ${key}`,
      reads,
      writes: { dx, dws, dbiases },
      constants: { ...constants, WANT_X: Number(dx !== undefined) },
      params: { ...params, batch: ['u32', s.batch], segment: ['u32', SEGMENT], parts: ['u32', parts] },
      declarations: () => sharedCode + backwardCode,
      body: () => 'walk(i % params.channels, i / params.channels);',
    } as const;
    launches.push(launchElements(parts * s.channels, walk, device));
    if (dw) launches.push(sumRows(dws!, dw, device));
    if (dbias) launches.push(sumRows(dbiases!, dbias, device));
  }
  if (dinitial && dinitial.size > 0) {
    // The K−1 columns before the sequence are few, so each thread works its sums out alone.
    const kernel = {
      key: `causal_conv1d initial ${key}`,
      reads,
      writes: { dinitial },
      constants,
      params,
      declarations: () => sharedCode,
      body: () => /* wgsl */ `let at = place(i, K - 1u);
  var sum = 0.0;
  for (var l = 0u; l < min(at.l + 1u, params.length); l++) {
    sum += load_w(at.c * K + at.l - l) * load_dy(index(at.b, at.c, l, params.length)) * slope(sum_at(at.b, at.c, l));
  }
  store_dinitial(i, sum);`,
    };
    launches.push(launchElements(dinitial.size, kernel, device));
  }
  return launches;
}

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
