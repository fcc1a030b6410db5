import { expectOneOf } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { FLAT_INDEX, grid1d, type Launch, shader, type Shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply, apply1, defineOp, type GpuArg, type HostArg, hostSums, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import backwardCode from './causal-conv1d-backward.wgsl';
import forwardCode from './causal-conv1d.wgsl';
import { expectRank, expectShape, show } from '../common/shapes.ts';

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
  /** Which optional inputs follow x and w, in this order. */
  readonly bias: boolean;
  readonly initial: boolean;
}

interface ConvBackwardAttrs extends ConvAttrs {
  /** Which of dx, dw, db, dinitial to form; the outputs are those, in this order. */
  readonly wants: readonly [boolean, boolean, boolean, boolean];
}

const WG = 256;
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

function initialShape(s: Sizes, layout: ConvLayout): number[] {
  return layout === 'bcl' ? [s.batch, s.channels, s.width - 1] : [s.batch, s.width - 1, s.channels];
}

/** Optional inputs by name; they follow the `first` fixed ones. */
function optional<T>(inputs: readonly T[], attrs: ConvAttrs, first: number): { bias?: T; initial?: T } {
  const bias = attrs.bias ? inputs[first] : undefined;
  return { bias, initial: attrs.initial ? inputs[first + (attrs.bias ? 1 : 0)] : undefined };
}

/** Reads and writes element (b, c, l) of the layout, with the initial columns at l < 0. */
function accessors(s: Sizes, layout: ConvLayout, x: HostArg, initial: HostArg | undefined) {
  const index = (length: number) => (b: number, c: number, l: number) =>
    layout === 'bcl' ? (b * s.channels + c) * length + l : (b * length + l) * s.channels + c;
  const at = index(s.length);
  const before = index(s.width - 1);
  const column = (b: number, c: number, l: number): number => {
    if (l >= 0) return x.data[at(b, c, l)];
    return initial ? initial.data[before(b, c, l + s.width - 1)] : 0;
  };
  return { at, before, column };
}

/** WGSL that the forward and the backward share. */
function helpers(attrs: ConvAttrs): string {
  const last = attrs.layout === 'blc';
  const index = last ? '(b * length + l) * params.channels + c' : '(b * params.channels + c) * length + l';
  return /* wgsl */ `${FLAT_INDEX}
struct Place { b: u32, c: u32, l: u32 }
fn place(i: u32) -> Place {
  let fast = ${last ? 'params.channels' : 'params.length'};
  let slow = ${last ? 'params.length' : 'params.channels'};
  let rest = i / fast;
  return ${last ? 'Place(rest / slow, i % fast, rest % slow)' : 'Place(rest / slow, rest % slow, i % fast)'};
}
fn index_in(b: u32, c: u32, l: u32, length: u32) -> u32 { return ${index}; }
fn index(b: u32, c: u32, l: u32) -> u32 { return index_in(b, c, l, params.length); }
fn column(b: u32, c: u32, l: i32) -> f32 {
  if (l >= 0) { return xs[index(b, c, u32(l))]; }
  return ${attrs.initial ? 'initial[index_in(b, c, u32(l + i32(K - 1u)), K - 1u)]' : '0.0'};
}
fn bias_at(c: u32) -> f32 { return ${attrs.bias ? 'bias[c]' : '0.0'}; }
fn sigmoid(x: f32) -> f32 { let e = exp(-abs(x)); return select(e, 1.0, x >= 0.0) / (1.0 + e); }
fn slope(sum: f32) -> f32 {
  ${attrs.silu ? 'let s = sigmoid(sum); return s * (1.0 + sum * (1.0 - s));' : 'return 1.0;'}
}
`;
}

function optionalReads(attrs: ConvAttrs): Record<string, string> {
  return { ...(attrs.bias && { bias: 'f32' }), ...(attrs.initial && { initial: 'f32' }) };
}

function variant(attrs: ConvAttrs, width: number): string {
  return `${attrs.layout}.${width}.${attrs.silu}.${attrs.bias}.${attrs.initial}`;
}

function forwardShader(attrs: ConvAttrs, width: number): Shader {
  return shader(`causal_conv1d.${variant(attrs, width)}`, () => ({
    reads: { xs: 'f32', ws: 'f32', ...optionalReads(attrs) },
    writes: { ys: 'f32' },
    params: { total: 'u32', channels: 'u32', length: 'u32' },
    constants: { WG, K: width, SILU: Number(attrs.silu) },
    code: helpers(attrs) + forwardCode,
  }));
}

const conv = defineOp<ConvAttrs>({
  name: 'causal_conv1d',
  shape(inputs, attrs) {
    const [x, w] = inputs;
    inputs.forEach((t, i) => expectDType('causal_conv1d', ['x', 'w', 'bias', 'initial'][i], t.dtype, 'f32'));
    expectRank('causal_conv1d', 'x', x, 3);
    expectRank('causal_conv1d', 'w', w, 2);
    const s = sizes(x, w, attrs.layout);
    if (s.width < 1 || s.width > MAX_WIDTH || w.shape[0] !== s.channels) {
      const want = `[${s.channels}, 1…${MAX_WIDTH}] for x ${show(x.shape)} in layout ${attrs.layout}`;
      throw new ShapeError(`causal_conv1d: w has shape ${show(w.shape)}, expected ${want}`);
    }
    const { bias, initial } = optional(inputs, attrs, 2);
    if (bias) expectShape('causal_conv1d', 'bias', bias, [s.channels]);
    if (initial) expectShape('causal_conv1d', 'initial', initial, initialShape(s, attrs.layout));
    return [spec(x.shape)];
  },
  reference({ inputs, outputs: [y], attrs }) {
    const [x, w] = inputs;
    const { bias, initial } = optional(inputs, attrs, 2);
    const s = sizes(x, w, attrs.layout);
    const { at, column } = accessors(s, attrs.layout, x, initial);
    for (let b = 0; b < s.batch; b++) {
      for (let c = 0; c < s.channels; c++) {
        for (let l = 0; l < s.length; l++) {
          let sum = bias ? bias.data[c] : 0;
          for (let k = 0; k < s.width; k++) sum += w.data[c * s.width + k] * column(b, c, l + k - s.width + 1);
          y.data[at(b, c, l)] = attrs.silu ? sum / (1 + Math.exp(-sum)) : sum;
        }
      }
    }
  },
  webgpu({ inputs, outputs: [y], attrs }) {
    const s = sizes(inputs[0], inputs[1], attrs.layout);
    return [
      {
        shader: forwardShader(attrs, s.width),
        args: [...inputs, y],
        params: [y.size, s.channels, s.length],
        grid: grid1d(y.size, WG),
      },
    ];
  },
  wasm({ inputs, outputs: [y], attrs, k, scratch }) {
    const [x, w] = inputs;
    const { bias, initial } = optional(inputs, attrs, 2);
    const args = wasmSizes(sizes(x, w, attrs.layout), attrs);
    const room = scratch(k.causal_conv1d_scratch(args[1], args[2], args[3], args[4]));
    k.causal_conv1d(x.ptr, w.ptr, bias?.ptr ?? 0, initial?.ptr ?? 0, y.ptr, ...args, room);
    return true;
  },
  saves: { inputs: [0, 1, 2, 3] },
  backward({ attrs, inputSpecs, needs, input, grads: [dy] }) {
    const { bias: biasAt, initial: initialAt } = optional(
      inputSpecs.map((_, i) => i),
      attrs,
      2,
    );
    const places = [0, 1, biasAt, initialAt];
    const wants = places.map((i) => i !== undefined && needs[i]) as [boolean, boolean, boolean, boolean];
    const rest = inputSpecs.slice(2).map((_, i) => input(i + 2));
    const formed = apply(convBackward, [input(0), input(1), dy!, ...rest], { ...attrs, wants });
    const grads: (Tensor | null)[] = inputSpecs.map(() => null);
    places.filter((_, i) => wants[i]).forEach((place, i) => (grads[place!] = formed[i]));
    return grads;
  },
});

const convBackward = defineOp<ConvBackwardAttrs>({
  name: 'causal_conv1d_backward',
  shape([x, w], { layout, wants }) {
    const s = sizes(x, w, layout);
    return [x.shape, w.shape, [s.channels], initialShape(s, layout)].filter((_, i) => wants[i]).map((d) => spec(d));
  },
  reference({ inputs, outputs, attrs }) {
    const [x, w, dy] = inputs;
    const { bias, initial } = optional(inputs, attrs, 3);
    const s = sizes(x, w, attrs.layout);
    const { at, before, column } = accessors(s, attrs.layout, x, initial);
    const sums = hostSums(outputs);
    const [dx, dw, db, dinitial] = byWant(sums, attrs.wants);
    for (let b = 0; b < s.batch; b++) {
      for (let c = 0; c < s.channels; c++) {
        for (let l = 0; l < s.length; l++) {
          let sum = bias ? bias.data[c] : 0;
          for (let k = 0; k < s.width; k++) sum += w.data[c * s.width + k] * column(b, c, l + k - s.width + 1);
          const sigmoid = 1 / (1 + Math.exp(-sum));
          const g = dy.data[at(b, c, l)] * (attrs.silu ? sigmoid * (1 + sum * (1 - sigmoid)) : 1);
          if (db) db.data[c] += g;
          for (let k = 0; k < s.width; k++) {
            const from = l + k - s.width + 1;
            if (dw) dw.data[c * s.width + k] += g * column(b, c, from);
            if (from >= 0 && dx) dx.data[at(b, c, from)] += g * w.data[c * s.width + k];
            if (from < 0 && dinitial) dinitial.data[before(b, c, from + s.width - 1)] += g * w.data[c * s.width + k];
          }
        }
      }
    }
    outputs.forEach((d, i) => d.data.set(sums[i].data));
  },
  webgpu({ inputs, outputs, attrs, scratch }) {
    const [x, w, dy, ...rest] = inputs;
    const s = sizes(x, w, attrs.layout);
    const [dx, dw, db, dinitial] = byWant(outputs, attrs.wants);
    const launches: Launch[] = [];
    if (dx || dw || db) {
      const segments = s.batch * Math.ceil(s.length / SEGMENT);
      const parts = dw || db ? Math.min(segments, MAX_PARTS) : segments;
      const partial = dw || db ? scratch([parts, s.width + 1, s.channels]) : undefined;
      launches.push({
        shader: walkShader(attrs, s.width, dx !== undefined, partial !== undefined),
        args: [x, w, dy, ...rest, ...present(dx), ...present(partial)],
        params: [s.batch, s.channels, s.length, SEGMENT, parts],
        grid: grid1d(parts * s.channels, WG),
      });
      if (partial) launches.push(reduceLaunch(partial, dw, db, s, parts));
    }
    if (dinitial && dinitial.size > 0) {
      launches.push({
        shader: initialShader(attrs, s.width),
        args: [x, w, dy, ...rest, dinitial],
        params: [dinitial.size, s.channels, s.length],
        grid: grid1d(dinitial.size, WG),
      });
    }
    return launches;
  },
  wasm({ inputs, outputs, attrs, k, scratch }) {
    const [x, w, dy] = inputs;
    const { bias, initial } = optional(inputs, attrs, 3);
    const [dx, dw, db, dinitial] = byWant(outputs, attrs.wants).map((d) => d?.ptr ?? 0);
    const args = wasmSizes(sizes(x, w, attrs.layout), attrs);
    const room = scratch(k.causal_conv1d_scratch(args[1], args[2], args[3], args[4]));
    const given = [x.ptr, w.ptr, bias?.ptr ?? 0, initial?.ptr ?? 0, dy.ptr] as const;
    k.causal_conv1d_backward(...given, dx, dw, db, dinitial, ...args, room);
    return true;
  },
});

/** B, C, L, K and the flags that the C kernels take. */
function wasmSizes(s: Sizes, { layout, silu }: ConvAttrs) {
  return [s.batch, s.channels, s.length, s.width, Number(layout === 'blc'), Number(silu)] as const;
}

function byWant<T>(outputs: readonly T[], wants: readonly boolean[]): (T | undefined)[] {
  let next = 0;
  return wants.map((want) => (want ? outputs[next++] : undefined));
}

const present = <T>(value: T | undefined): T[] => (value === undefined ? [] : [value]);

function walkShader(attrs: ConvAttrs, width: number, wantX: boolean, wantW: boolean): Shader {
  return shader(`causal_conv1d.backward.${variant(attrs, width)}.${wantX}.${wantW}`, () => ({
    reads: { xs: 'f32', ws: 'f32', dys: 'f32', ...optionalReads(attrs) },
    writes: { ...(wantX && { dxs: 'f32' }), ...(wantW && { partials: 'f32' }) },
    params: { batch: 'u32', channels: 'u32', length: 'u32', segment: 'u32', parts: 'u32' },
    constants: { WG, K: width, WANT_X: Number(wantX), WANT_W: Number(wantW) },
    code: /* wgsl */ `${helpers(attrs)}
fn write_dx(i: u32, value: f32) { ${wantX ? 'dxs[i] = value;' : ''} }
fn write_partial(i: u32, value: f32) { ${wantW ? 'partials[i] = value;' : ''} }
${backwardCode}`,
  }));
}

const REDUCE_COLUMNS = 16;

/** Sums the partials over their n parts: 16 columns a workgroup, 16 threads a column. */
function reduceLaunch(partial: GpuArg, dw: GpuArg | undefined, db: GpuArg | undefined, s: Sizes, n: number): Launch {
  const kernel = shader(`causal_conv1d.reduce.${dw !== undefined}.${db !== undefined}`, () => ({
    reads: { partials: 'f32' },
    writes: { ...(dw && { dws: 'f32' }), ...(db && { dbs: 'f32' }) },
    params: { channels: 'u32', width: 'u32', parts: 'u32' },
    constants: { WG, COLUMNS: REDUCE_COLUMNS },
    code: /* wgsl */ `${FLAT_INDEX}
var<workgroup> sums: array<f32, WG>;
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let columns = params.channels * (params.width + 1u);
  let column = flat_group(group, groups) * COLUMNS + local % COLUMNS;
  var sum = 0.0;
  for (var p = local / COLUMNS; p < params.parts && column < columns; p += WG / COLUMNS) {
    sum += partials[p * columns + column];
  }
  sums[local] = sum;
  for (var half = WG / 2u; half >= COLUMNS; half /= 2u) {
    workgroupBarrier();
    if (local < half) { sums[local] += sums[local + half]; }
  }
  if (local >= COLUMNS || column >= columns) { return; }
  let k = column / params.channels;
  let c = column % params.channels;
  ${db ? 'if (k == params.width) { dbs[c] = sums[local]; }' : ''}
  ${dw ? 'if (k < params.width) { dws[c * params.width + k] = sums[local]; }' : ''}
}`,
  }));
  const columns = s.channels * (s.width + 1);
  return {
    shader: kernel,
    args: [partial, ...present(dw), ...present(db)],
    params: [s.channels, s.width, n],
    grid: grid1d(columns, REDUCE_COLUMNS),
  };
}

/** Gradient of the K−1 columns before the sequence: few, so each thread works its sums out alone. */
function initialShader(attrs: ConvAttrs, width: number): Shader {
  return shader(`causal_conv1d.initial.${variant(attrs, width)}`, () => ({
    reads: { xs: 'f32', ws: 'f32', dys: 'f32', ...optionalReads(attrs) },
    writes: { dinitials: 'f32' },
    params: { total: 'u32', channels: 'u32', length: 'u32' },
    constants: { WG, K: width },
    code: /* wgsl */ `${helpers(attrs)}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.total) { return; }
  let fast = ${attrs.layout === 'blc' ? 'params.channels' : 'K - 1u'};
  let slow = ${attrs.layout === 'blc' ? 'K - 1u' : 'params.channels'};
  let rest = i / fast;
  let b = rest / slow;
  let c = ${attrs.layout === 'blc' ? 'i % fast' : 'rest % slow'};
  let m = ${attrs.layout === 'blc' ? 'rest % slow' : 'i % fast'};
  var dinitial = 0.0;
  for (var l = 0u; l < min(m + 1u, params.length); l++) {
    var sum = bias_at(c);
    for (var k = 0u; k < K; k++) { sum += ws[c * K + k] * column(b, c, i32(l + k) - i32(K - 1u)); }
    dinitial += ws[c * K + m - l] * dys[index(b, c, l)] * slope(sum);
  }
  dinitials[i] = dinitial;
}`,
  }));
}

/**
 * Depthwise causal convolution: y[l] = act(bias + Σ_k w[k] · x[l − K + 1 + k]), with the initial columns (or zeros)
 * before the sequence. Differentiable in all of them.
 * @param x f32 (B, C, L), or (B, L, C) with layout 'blc'
 * @param w f32 (C, K), K ≤ 8
 * @param bias f32 (C) or null
 */
export function causalConv1d(x: Tensor, w: Tensor, bias: Tensor | null, options: CausalConv1dOptions = {}): Tensor {
  const { activation = null, layout = 'bcl', initial = null } = options;
  expectOneOf('causal_conv1d', 'activation', activation, null, 'silu');
  expectOneOf('causal_conv1d', 'layout', layout, 'bcl', 'blc');
  const inputs = [x, w, bias, initial].filter((tensor) => tensor != null);
  const attrs = { silu: activation === 'silu', layout, bias: bias != null, initial: initial != null };
  return apply1(conv, inputs, attrs);
}
