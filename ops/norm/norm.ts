import { apply } from '../../engine/apply.ts';
import { expectFinite, expectWhole } from '../../engine/arguments.ts';
import type { DType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type HostArg, hostSums, spec } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { dsilu, silu } from '../common/math.ts';
import { launchRows } from '../common/rows.ts';
import { expectFloats, expectShape, show } from '../common/shapes.ts';
import { foldLaunches, sumOver } from '../reduce/fold.ts';

interface NormAttrs {
  /** Whether the mean is taken off. */
  readonly center: boolean;
  /** Where silu(z) is multiplied by: not at all, before or after the norm. */
  readonly gate: 'none' | 'first' | 'last';
  /** Consecutive channels that are normalised together. */
  readonly group: number;
  readonly eps: number;
}

/** WGSL of what is normalised, at place i, and of what the result is multiplied by. */
const sourceAt = (gate: NormAttrs['gate']) => (gate === 'first' ? 'load_x(i) * silu(load_z(i))' : 'load_x(i)');
const afterAt = (gate: NormAttrs['gate']) => (gate === 'last' ? 'silu(load_z(i))' : '1.0');
const gated = (gate: NormAttrs['gate']) => /* wgsl */ `
fn source(i: u32) -> f32 { return ${sourceAt(gate)}; }
fn after(i: u32) -> f32 { return ${afterAt(gate)}; }`;

/** The C kernel's word for where the gate comes. */
const WASM_GATE = { none: 0, first: 1, last: 2 } as const;

const average = (values: readonly number[]) => values.reduce((sum, v) => sum + v, 0) / values.length;

/** For each row where it and its weights begin, the values to normalise, and what their results are multiplied by. */
function* hostRows(x: HostArg, z: HostArg | undefined, { group, gate }: NormAttrs, channels: number) {
  for (let row = 0; row * group < x.size; row++) {
    const at = row * group;
    const gates = Array.from({ length: group }, (_, c) => (z ? silu(z.data[at + c]) : 1));
    const values = gates.map((g, c) => x.data[at + c] * (gate === 'first' ? g : 1));
    yield { row, at, w: at % channels, values, after: gates.map((g) => (gate === 'last' ? g : 1)) };
  }
}

/** x̂ of a row. */
const hatOf = (values: readonly number[], row: number, mean: HostArg | undefined, rstd: HostArg) =>
  values.map((v) => (v - (mean ? mean.data[row] : 0)) * rstd.data[row]);

interface WeightAttrs extends NormAttrs {
  readonly weight: DType;
  readonly bias?: DType;
}

/** The gradients of a norm's inputs. */
function defineInputsBackward(name: string) {
  return defineOp({
    name: `${name}_backward`,
    inputs: ['x', 'z?', 'weight', 'mean?', 'rstd', 'dy'],
    outputs: ['dx', 'dz?'],
    shape: ({ x, z }, _: NormAttrs) => ({ dx: spec(x.shape, x.dtype), dz: z && spec(z.shape, z.dtype) }),
    reference({ x, z, weight, mean, rstd, dy }, { dx, dz }, attrs) {
      const { gate, center } = attrs;
      for (const { row, at, w, values, after } of hostRows(x, z, attrs, weight.size)) {
        const hat = hatOf(values, row, mean, rstd);
        const slopes = after.map((factor, c) => dy.data[at + c] * weight.data[w + c] * factor);
        const sum = center ? average(slopes) : 0;
        const dot = average(slopes.map((slope, c) => slope * hat[c]));
        slopes.forEach((slope, c) => {
          const i = at + c;
          const du = rstd.data[row] * (slope - sum - hat[c] * dot);
          dx.data[i] = gate === 'first' ? du * silu(z!.data[i]) : du;
          const dgate = gate === 'first' ? du * x.data[i] : dy.data[i] * weight.data[w + c] * hat[c];
          if (dz) dz.data[i] = dgate * dsilu(z!.data[i]);
        });
      }
    },
    webgpu({ x, z, weight, mean, rstd, dy }, { dx, dz }, { center, gate, group }, device) {
      const [dgate, dsource] =
        gate === 'first' ? ['du * load_x(i)', 'silu(load_z(i))'] : ['load_dy(i) * load_weight(w + c) * hat', '1.0'];
      return [launchRows(device, x.size / group, group, {
        key: `norm.backward.${gate}`,
        reads: { x, z, weight, mean, rstd, dy },
        writes: { dx, dz },
        params: { groups: weight.size / group },
        declarations: () => /* wgsl */ `${gated(gate)}
fn slope(i: u32, w: u32) -> f32 { return load_dy(i) * load_weight(w) * after(i); }`,
        body: () => /* wgsl */ `
  let safe = min(row, params.rows - 1u);
  let w = (row % params.groups) * params.columns;
  let mean = load_mean(safe);
  let rstd = load_rstd(safe);
  var sums = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let g = slope(base + c, w + c);
    sums += vec2<f32>(g, g * (source(base + c) - mean) * rstd);
  }
  let means_of = row_sum2(sums, local) / f32(params.columns);
  if (row >= params.rows) { return; }
  for (var c = lane; c < params.columns; c += LANES) {
    let i = base + c;
    let hat = (source(i) - mean) * rstd;
    let du = rstd * (slope(i, w + c)${center ? ' - means_of.x' : ''} - hat * means_of.y);
    store_dx(i, du * ${dsource});
    store_dz(i, ${dgate} * dsilu(load_z(i)));
  }`,
      })];
    },
    wasm({ x, z, weight, mean, rstd, dy }, { dx, dz }, { group, gate }, { k }) {
      k.norm_backward(x, z, weight, mean, rstd, dy, dx, dz, x.size / group, group, weight.size, WASM_GATE[gate]);
      return true;
    },
  });
}

/** Those of its weight and its bias. */
function defineWeightsBackward(name: string) {
  return defineOp({
    name: `${name}_weight_backward`,
    inputs: ['x', 'z?', 'mean?', 'rstd', 'dy'],
    outputs: ['dweight', 'dbias?'],
    shape: ({ x }, { weight, bias }: WeightAttrs) => ({
      dweight: spec(x.shape.slice(-1), weight),
      dbias: bias && spec(x.shape.slice(-1), bias),
    }),
    reference({ x, z, mean, rstd, dy }, { dweight, dbias }, attrs) {
      const outputs = dbias ? [dweight, dbias] : [dweight];
      const sums = hostSums(outputs);
      for (const { row, at, w, values, after } of hostRows(x, z, attrs, dweight.size)) {
        hatOf(values, row, mean, rstd).forEach((hat, c) => {
          const g = dy.data[at + c] * after[c];
          sums[0].data[w + c] += g * hat;
          if (dbias) sums[1].data[w + c] += g;
        });
      }
      outputs.forEach((d, i) => d.data.set(sums[i].data));
    },
    webgpu({ x, z, mean, rstd, dy }, writes, { gate, group }, device) {
      const reads = { x, z, mean, rstd, dy };
      const stat = 'i / params.columns';
      const hat = `(${sourceAt(gate)} - load_mean(${stat})) * load_rstd(${stat})`;
      const [acc, terms, store] = writes.dbias
        ? ['vec2<f32>', `vec2(${hat}, 1.0)`, 'store_dweight(o, a.x); store_dbias(o, a.y);']
        : ['f32', hat, 'store_dweight(o, a);'];
      return foldLaunches(device, x.shape.slice(0, -1).map((_, d) => d), {
        name: `norm.weights.${gate}.${acc}`,
        ...{ reads, writes, store, params: { columns: group } },
        fold: sumOver(acc, `${terms} * (load_dy(i) * ${afterAt(gate)})`),
      });
    },
    wasm({ x, z, mean, rstd, dy }, { dweight, dbias }, { group, gate }, { k, sizes, scratch }) {
      const room = scratch(sizes.norm_weights_scratch(dweight.size));
      const counts = [x.size / group, group, dweight.size, WASM_GATE[gate]] as const;
      k.norm_weights_backward(x, z, mean, rstd, dy, dweight, dbias, ...counts, room);
      return true;
    },
  });
}

/** A norm of that name with its gradients. */
function normOp(name: string) {
  const inputsBackward = defineInputsBackward(name);
  const weightsBackward = defineWeightsBackward(name);
  return defineOp({
    name,
    inputs: ['x', 'z?', 'weight', 'bias?'],
    outputs: ['y', 'mean?', 'rstd'],
    shape({ x, ...others }, { center, group, eps, gate }: NormAttrs) {
      const channels = x.shape.at(-1) ?? 0;
      if (gate !== 'none' && !others.z) throw new ShapeError(`${name}: z is missing`);
      expectFinite(name, 'eps', eps, 0);
      expectWhole(name, 'groupSize', group);
      if (channels === 0 || channels % group !== 0) {
        throw new ShapeError(`${name}: x has shape ${show(x.shape)}, whose last dimension is no multiple of ${group}`);
      }
      expectFloats(name, { x, ...others });
      for (const [arg, other] of Object.entries(others)) {
        if (other) expectShape(name, arg, other, arg === 'z' ? x.shape : [channels]);
      }
      const stats = spec([...x.shape.slice(0, -1), channels / group]);
      return { y: spec(x.shape, x.dtype), mean: center ? stats : undefined, rstd: stats };
    },
    reference({ x, z, weight, bias }, { y, mean, rstd }, attrs) {
      for (const { row, at, w, values, after } of hostRows(x, z, attrs, weight.size)) {
        const mu = mean ? average(values) : 0;
        if (mean) mean.data[row] = mu;
        const r = 1 / Math.sqrt(average(values.map((v) => (v - mu) ** 2)) + attrs.eps);
        rstd.data[row] = r;
        values.forEach((v, c) => {
          y.data[at + c] = ((v - mu) * r * weight.data[w + c] + (bias ? bias.data[w + c] : 0)) * after[c];
        });
      }
    },
    webgpu({ x, z, weight, bias }, { y, mean, rstd }, { center, gate, group, eps }, device) {
      return [launchRows(device, x.size / group, group, {
        key: `norm.${gate}`,
        reads: { x, z, weight, bias },
        writes: { y, mean, rstd },
        params: { groups: weight.size / group, eps: ['f32', eps] } as const,
        declarations: () => gated(gate),
        body: () => /* wgsl */ `
  let w = (row % params.groups) * params.columns;
  let share = share_of(params.columns);
  var sums = vec2<f32>();
  for (var c = lane; c < params.columns; c += LANES) {
    let v = source(base + c) * share;
    sums += vec2<f32>(v, abs(v));
  }
  let averages = row_sum2(sums, local) / (f32(params.columns) * share);
  let mean = ${center ? 'averages.x' : '0.0'};
  let scale = scale_for(averages.y);
  var squares = 0.0;
  for (var c = lane; c < params.columns; c += LANES) {
    let d = source(base + c) * scale - mean * scale;
    squares += d * d;
  }
  let rstd = rstd_of(row_sum(squares, local) / f32(params.columns), scale, params.eps);
  if (row >= params.rows) { return; }
  for (var c = lane; c < params.columns; c += LANES) {
    let hat = (source(base + c) * scale - mean * scale) * (rstd / scale);
    store_y(base + c, (hat * load_weight(w + c)${bias ? ' + load_bias(w + c)' : ''}) * after(base + c));
  }
  if (lane > 0u) { return; }
  store_mean(row, mean);
  store_rstd(row, rstd);`,
      })];
    },
    wasm({ x, z, weight, bias }, { y, mean, rstd }, { group, eps, gate }, { k }) {
      k.norm(x, z, weight, bias, y, mean, rstd, x.size / group, group, weight.size, eps, WASM_GATE[gate]);
      return true;
    },
    saves: ['x', 'z', 'weight', 'mean', 'rstd'],
    backward({ attrs, saved: { weight, ...saved }, specs, needs, grads }) {
      const given = { ...saved, dy: grads.y! };
      const { dx, dz } = needs.x || needs.z ? apply(inputsBackward, { ...given, weight }, attrs) : {};
      const dtypes = { weight: specs.weight.dtype, bias: specs.bias?.dtype };
      const wanted = needs.weight || needs.bias;
      const { dweight, dbias } = wanted ? apply(weightsBackward, given, { ...attrs, ...dtypes }) : {};
      return { x: dx, z: dz, weight: dweight, bias: dbias };
    },
  });
}

const layerNormOp = /* @__PURE__ */ normOp('layer_norm');
const rmsNormOp = /* @__PURE__ */ normOp('rms_norm');
const rmsNormGatedOp = /* @__PURE__ */ normOp('rms_norm_gated');

const whole = (x: Tensor) => x.shape.at(-1) ?? 0;

/**
 * Layer norm over the last dimension: (x − mean)/√(var + eps)·weight + bias (Ba et al. 2016).
 * @param x floats (…, C), whose dtype the result has
 * @param weight floats (C)
 * @param bias floats (C)
 */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5): Tensor {
  const attrs = { center: true, gate: 'none', group: whole(x), eps } as const;
  return scope(() => apply(layerNormOp, { x, weight, bias }, attrs).y);
}

/** RMS norm over the last dimension: x/√(mean x² + eps)·weight. x floats (…, C), whose dtype the result has, weight (C). */
export function rmsNorm(x: Tensor, weight: Tensor, eps = 1e-5): Tensor {
  const attrs = { center: false, gate: 'none', group: whole(x), eps } as const;
  return scope(() => apply(rmsNormOp, { x, weight }, attrs).y);
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
 * @param x floats (…, C), whose dtype the result has
 * @param z floats (…, C), the gate
 * @param weight floats (C)
 */
export function rmsNormGated(x: Tensor, z: Tensor, weight: Tensor, options: GatedNormOptions = {}): Tensor {
  const { groupSize = whole(x), eps = 1e-5, normBeforeGate = false } = options;
  const attrs = { center: false, gate: normBeforeGate ? 'last' : 'first', group: groupSize, eps } as const;
  return scope(() => apply(rmsNormGatedOp, { x, z, weight }, attrs).y);
}
