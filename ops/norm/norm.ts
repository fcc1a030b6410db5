import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply, type BackwardContext, defineOp, type GpuArg, type HostArg, hostSums, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { normBackwardWgsl, normForwardWgsl, normWeightsWgsl, type NormKind } from './kernels.ts';
import { columnSum, lanesFor, ROW_WORKGROUP, rowGrid } from '../common/rows.ts';
import { expectShape, show } from '../common/shapes.ts';

interface NormAttrs {
  /** Consecutive channels that are normalised together. */
  readonly group: number;
  readonly eps: number;
}

/** The arguments of a norm by name, out of the list that its kind makes of them. */
interface Named<T> {
  readonly x: T;
  readonly z: T | null;
  readonly mean: T | null;
  readonly rstd: T;
}

/** The C kernel's word for where the gate comes. */
const WASM_GATE: Record<NormKind['gate'], number> = { none: 0, first: 1, last: 2 };

const sigmoid = (v: number) => 1 / (1 + Math.exp(-v));
const silu = (v: number) => v * sigmoid(v);
const dsilu = (v: number) => sigmoid(v) * (1 + v * (1 - sigmoid(v)));

/** Reads `x, (z), rest…, (mean), rstd` off a list. */
function named<T>(kind: NormKind, list: readonly T[], stats: number): Named<T> {
  return {
    x: list[0],
    z: kind.gate === 'none' ? null : list[1],
    mean: kind.center ? list[stats] : null,
    rstd: list[kind.center ? stats + 1 : stats],
  };
}

/** Calls `visit` for each row with the index of its first element and of its first weight. */
function eachRow(size: number, group: number, channels: number, visit: (row: number, at: number, w: number) => void) {
  for (let row = 0; row * group < size; row++) visit(row, row * group, (row * group) % channels);
}

/** What is normalised: x, or x·silu(z) where the gate comes first. */
function gated(kind: NormKind, x: HostArg, z: HostArg | null, i: number): number {
  return kind.gate === 'first' ? x.data[i] * silu(z!.data[i]) : x.data[i];
}

function checkNorm(kind: NormKind, inputs: readonly Spec[], { group, eps }: NormAttrs): Spec[] {
  const gate = kind.gate !== 'none';
  const [x] = inputs;
  const names = ['x', ...(gate ? ['z'] : []), 'weight', ...(kind.bias ? ['bias'] : [])];
  const channels = x.shape.at(-1) ?? 0;
  expectFinite(kind.name, 'eps', eps, 0);
  expectWhole(kind.name, 'groupSize', group);
  if (channels === 0 || channels % group !== 0) {
    throw new ShapeError(`${kind.name}: x has shape ${show(x.shape)}, whose last dimension is no multiple of ${group}`);
  }
  inputs.forEach((input, i) => {
    expectDType(kind.name, names[i], input.dtype, 'f32');
    if (i > 0) expectShape(kind.name, names[i], input, names[i] === 'z' ? x.shape : [channels]);
  });
  const stats = spec([...x.shape.slice(0, -1), channels / group]);
  return kind.center ? [spec(x.shape), stats, stats] : [spec(x.shape), stats];
}

function forwardOp(kind: NormKind): Op<NormAttrs> {
  const weightAt = kind.gate === 'none' ? 1 : 2;
  return defineOp<NormAttrs>({
    name: kind.name,
    shape: (inputs, attrs) => checkNorm(kind, inputs, attrs),
    reference({ inputs, outputs, attrs: { group, eps } }) {
      const { x, z } = named(kind, inputs, 0);
      const [y] = outputs;
      const { mean, rstd } = named(kind, outputs, 1);
      const weight = inputs[weightAt].data;
      const bias = kind.bias ? inputs[weightAt + 1].data : null;
      eachRow(x.size, group, weight.length, (row, at, w) => {
        let mu = 0;
        if (kind.center) for (let c = 0; c < group; c++) mu += gated(kind, x, z, at + c) / group;
        let variance = 0;
        for (let c = 0; c < group; c++) variance += (gated(kind, x, z, at + c) - mu) ** 2 / group;
        const r = 1 / Math.sqrt(variance + eps);
        if (mean) mean.data[row] = mu;
        rstd.data[row] = r;
        for (let c = 0; c < group; c++) {
          const scaled = (gated(kind, x, z, at + c) - mu) * r * weight[w + c] + (bias ? bias[w + c] : 0);
          y.data[at + c] = kind.gate === 'last' ? scaled * silu(z!.data[at + c]) : scaled;
        }
      });
    },
    webgpu({ inputs, outputs, attrs: { group, eps } }) {
      const rows = inputs[0].size / group;
      const lanes = lanesFor(group);
      return [
        {
          shader: shader(`norm.${kind.key}.${lanes}`, () => ({
            ...normForwardWgsl(kind),
            constants: { WG: ROW_WORKGROUP, LANES: lanes },
          })),
          args: [...inputs, ...outputs],
          params: [rows, group, inputs[weightAt].size / group, eps],
          grid: rowGrid(rows, lanes),
        },
      ];
    },
    wasm({ inputs, outputs, attrs: { group, eps }, k }) {
      const { x, z } = named(kind, inputs, 0);
      const { mean, rstd } = named(kind, outputs, 1);
      const [weight, bias] = inputs.slice(weightAt);
      const args = [x.ptr, z?.ptr ?? 0, weight.ptr, bias?.ptr ?? 0, outputs[0].ptr, mean?.ptr ?? 0, rstd.ptr] as const;
      k.norm(...args, x.size / group, group, weight.size, eps, WASM_GATE[kind.gate]);
      return true;
    },
    saves: {
      inputs: kind.gate === 'none' ? [0, 1] : [0, 1, 2],
      outputs: kind.center ? [1, 2] : [1],
    },
    backward: (context) => backward(kind, weightAt, context),
  });
}

function backward(kind: NormKind, weightAt: number, context: BackwardContext<NormAttrs>): (Tensor | null)[] {
  const { input, output, needs, grads, attrs } = context;
  const dy = grads[0]!;
  const values = kind.gate === 'none' ? [input(0)] : [input(0), input(1)];
  const stats = kind.center ? [output(1), output(2)] : [output(1)];
  const toInputs = needs.slice(0, weightAt).some(Boolean)
    ? apply(OPS[kind.key].inputs, [...values, input(weightAt), dy, ...stats], attrs)
    : values.map(() => null);
  const toWeights = needs.slice(weightAt).some(Boolean)
    ? apply(OPS[kind.key].weights, [...values, dy, ...stats], attrs)
    : needs.slice(weightAt).map(() => null);
  return [...toInputs, ...toWeights];
}

/** x, (z), weight, dy, (mean), rstd → dx, (dz). */
function inputsBackwardOp(kind: NormKind): Op<NormAttrs> {
  const weightAt = kind.gate === 'none' ? 1 : 2;
  return defineOp<NormAttrs>({
    name: `${kind.name}_backward`,
    shape: ([x]) => (kind.gate === 'none' ? [spec(x.shape)] : [spec(x.shape), spec(x.shape)]),
    reference({ inputs, outputs: [dx, dz], attrs: { group } }) {
      const { x, z, mean, rstd } = named(kind, inputs, weightAt + 2);
      const weight = inputs[weightAt].data;
      const dy = inputs[weightAt + 1].data;
      eachRow(x.size, group, weight.length, (row, at, w) => {
        const mu = mean ? mean.data[row] : 0;
        const r = rstd.data[row];
        const hat = (c: number) => (gated(kind, x, z, at + c) - mu) * r;
        const slope = (c: number) => dy[at + c] * weight[w + c] * (kind.gate === 'last' ? silu(z!.data[at + c]) : 1);
        let sum = 0;
        let dot = 0;
        for (let c = 0; c < group; c++) {
          if (kind.center) sum += slope(c) / group;
          dot += (slope(c) * hat(c)) / group;
        }
        for (let c = 0; c < group; c++) {
          const i = at + c;
          const du = r * (slope(c) - sum - hat(c) * dot);
          dx.data[i] = kind.gate === 'first' ? du * silu(z!.data[i]) : du;
          if (kind.gate === 'first') dz.data[i] = du * x.data[i] * dsilu(z!.data[i]);
          if (kind.gate === 'last') dz.data[i] = dy[i] * weight[w + c] * hat(c) * dsilu(z!.data[i]);
        }
      });
    },
    webgpu({ inputs, outputs, attrs: { group } }) {
      const rows = inputs[0].size / group;
      const lanes = lanesFor(group);
      return [
        {
          shader: shader(`norm.${kind.key}.backward.${lanes}`, () => ({
            ...normBackwardWgsl(kind),
            constants: { WG: ROW_WORKGROUP, LANES: lanes },
          })),
          args: [...inputs, ...outputs],
          params: [rows, group, inputs[weightAt].size / group],
          grid: rowGrid(rows, lanes),
        },
      ];
    },
    wasm({ inputs, outputs: [dx, dz], attrs: { group }, k }) {
      const { x, z, mean, rstd } = named(kind, inputs, weightAt + 2);
      const [weight, dy] = inputs.slice(weightAt);
      const args = [x.ptr, z?.ptr ?? 0, weight.ptr, mean?.ptr ?? 0, rstd.ptr, dy.ptr] as const;
      const sizes = [x.size / group, group, weight.size, WASM_GATE[kind.gate]] as const;
      k.norm_backward(...args, dx.ptr, dz?.ptr ?? 0, ...sizes);
      return true;
    },
  });
}

/** Slices of rows that the first stage of the weights' gradient sums apart. */
const SLICES = 256;
const MIN_SLICE = 32;

/** x, (z), dy, (mean), rstd → dweight, (dbias). */
function weightsBackwardOp(kind: NormKind): Op<NormAttrs> {
  const dyAt = kind.gate === 'none' ? 1 : 2;
  return defineOp<NormAttrs>({
    name: `${kind.name}_weight_backward`,
    shape: ([x]) => (kind.bias ? [spec(x.shape.slice(-1)), spec(x.shape.slice(-1))] : [spec(x.shape.slice(-1))]),
    reference({ inputs, outputs, attrs: { group } }) {
      const { x, z, mean, rstd } = named(kind, inputs, dyAt + 1);
      const dy = inputs[dyAt].data;
      const sums = hostSums(outputs);
      const [dweight, dbias] = sums;
      eachRow(x.size, group, outputs[0].size, (row, at, w) => {
        for (let c = 0; c < group; c++) {
          const i = at + c;
          const g = kind.gate === 'last' ? dy[i] * silu(z!.data[i]) : dy[i];
          dweight.data[w + c] += g * (gated(kind, x, z, i) - (mean ? mean.data[row] : 0)) * rstd.data[row];
          if (dbias) dbias.data[w + c] += g;
        }
      });
      outputs.forEach((d, i) => d.data.set(sums[i].data));
    },
    webgpu({ inputs, outputs, attrs: { group }, scratch }) {
      const channels = outputs[0].size;
      const rows = inputs[0].size / channels;
      const perSlice = Math.max(MIN_SLICE, Math.ceil(rows / SLICES));
      const slices = Math.max(1, Math.ceil(rows / perSlice));
      const stride = channels * outputs.length;
      const partial: GpuArg = scratch([slices, stride]);
      const first: Launch = {
        shader: shader(`norm.${kind.key}.weights`, () => normWeightsWgsl(kind)),
        args: [...inputs, partial],
        params: [rows, channels, group, perSlice, stride],
        grid: grid1d(channels, 64, slices),
      };
      return [first, ...outputs.map((out, i) => columnSum(partial, out, slices, stride, i * channels))];
    },
    wasm({ inputs, outputs: [dweight, dbias], attrs: { group }, k, scratch }) {
      const { x, z, mean, rstd } = named(kind, inputs, dyAt + 1);
      const args = [x.ptr, z?.ptr ?? 0, mean?.ptr ?? 0, rstd.ptr, inputs[dyAt].ptr] as const;
      const sizes = [x.size / group, group, dweight.size, WASM_GATE[kind.gate]] as const;
      const room = scratch(k.norm_weights_scratch(dweight.size));
      k.norm_weights_backward(...args, dweight.ptr, dbias?.ptr ?? 0, ...sizes, room);
      return true;
    },
  });
}

const KINDS = {
  layer: { key: 'layer', name: 'layer_norm', center: true, bias: true, gate: 'none' },
  rms: { key: 'rms', name: 'rms_norm', center: false, bias: false, gate: 'none' },
  gateFirst: { key: 'gateFirst', name: 'rms_norm_gated', center: false, bias: false, gate: 'first' },
  gateLast: { key: 'gateLast', name: 'rms_norm_gated', center: false, bias: false, gate: 'last' },
} as const satisfies Record<NormKind['key'], NormKind>;

function family(kind: NormKind) {
  return { forward: forwardOp(kind), inputs: inputsBackwardOp(kind), weights: weightsBackwardOp(kind) };
}

const OPS = {
  layer: /* @__PURE__ */ family(KINDS.layer),
  rms: /* @__PURE__ */ family(KINDS.rms),
  gateFirst: /* @__PURE__ */ family(KINDS.gateFirst),
  gateLast: /* @__PURE__ */ family(KINDS.gateLast),
};

/** Runs the norm and lets go of the row statistics; the tape holds on to them where it needs them. */
function run(key: NormKind['key'], inputs: Tensor[], attrs: NormAttrs): Tensor {
  const [y, ...stats] = apply(OPS[key].forward, inputs, attrs);
  for (const s of stats) s.dispose();
  return y;
}

/**
 * Layer norm over the last dimension: (x − mean)/√(var + eps)·weight + bias (Ba et al. 2016).
 * @param x f32 (…, C)
 * @param weight f32 (C)
 * @param bias f32 (C)
 */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5): Tensor {
  return run('layer', [x, weight, bias], { group: x.shape.at(-1) ?? 0, eps });
}

/** RMS norm over the last dimension: x/√(mean x² + eps)·weight. x f32 (…, C), weight f32 (C). */
export function rmsNorm(x: Tensor, weight: Tensor, eps = 1e-5): Tensor {
  return run('rms', [x, weight], { group: x.shape.at(-1) ?? 0, eps });
}

export interface GatedNormOptions {
  /** Channels normalised together; divides C. Default: all. */
  readonly groupSize?: number;
  readonly eps?: number;
  /** Normalise x first and gate the result; otherwise the gated x is normalised (Mamba-2's default). */
  readonly normBeforeGate?: boolean;
}

/**
 * RMS norm of each group of channels with a gate: norm(x·silu(z))·weight, or norm(x)·weight·silu(z).
 * @param x f32 (…, C)
 * @param z f32 (…, C), the gate
 * @param weight f32 (C)
 */
export function rmsNormGated(x: Tensor, z: Tensor, weight: Tensor, options: GatedNormOptions = {}): Tensor {
  const { groupSize = x.shape.at(-1) ?? 0, eps = 1e-5, normBeforeGate = false } = options;
  return run(normBeforeGate ? 'gateLast' : 'gateFirst', [x, z, weight], { group: groupSize, eps });
}
