import { apply } from '../../engine/apply.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { defineOp, type OpDefinition, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { launchRows, rowFold } from '../common/rows.ts';
import { around, normalizeDim } from '../common/shapes.ts';
import { declared, type FoldOf, launchFold } from './fold.ts';
import { mapLines } from './map-lines.ts';

type SoftmaxAttrs = { readonly dim: number };

/** What a kernel folds each line of values `v` to, as `total`, and what it then makes of each; and so in JavaScript. */
interface Kernel {
  /** `none` adds nothing to a total. */
  readonly fold: FoldOf & { readonly none: string };
  readonly result: string;
  readonly of: (...lines: Float64Array[]) => Float64Array;
}

/** The largest value with the sum of exponentials relative to it. */
const EXPONENTIALS: Kernel['fold'] = {
  type: 'f32',
  load: 'load_x(i)',
  acc: 'vec2<f32>',
  lift: 'vec2(v, 1.0)',
  none: 'nothing()',
  join: 'join_exp(a, b, 1.0)',
  four: 'exp_sum(vec4(a, b, c, d))',
  helpers: /* wgsl */ `
fn exp_sum(v: vec4<f32>) -> vec2<f32> {
  let m = max(max(v.x, v.y), max(v.z, v.w));
  return vec2(m, exp_above(v.x, m, 1.0) + exp_above(v.y, m, 1.0) + exp_above(v.z, m, 1.0) + exp_above(v.w, m, 1.0));
}
`,
};

/** A result, and its gradient, with the sum of what is `lift`ed. */
const gradients = (lift: string): Kernel['fold'] => ({
  ...{ type: 'vec2<f32>', load: 'vec2(load_y(i), load_dy(i))' },
  ...{ acc: 'f32', lift, none: 'vec2(0.0)', join: 'a + b' },
});

const total = (values: Float64Array): number => values.reduce((a, b) => a + b, 0);
const logSoftmaxOf = (x: Float64Array): Float64Array => {
  const largest = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const above = x.map((v) => v - largest);
  const log = Math.log(total(above.map(Math.exp)));
  return above.map((v) => v - log);
};

type Name = 'softmax' | 'log_softmax';
const KERNELS: Record<Name | `${Name}_backward`, Kernel> = {
  softmax: {
    fold: EXPONENTIALS,
    result: 'exp(v - total.x) / total.y',
    of: (x) => logSoftmaxOf(x).map(Math.exp),
  },
  log_softmax: {
    fold: EXPONENTIALS,
    result: '(v - total.x) - log(total.y)',
    of: logSoftmaxOf,
  },
  softmax_backward: {
    fold: gradients('v.x * v.y'),
    result: 'v.x * (v.y - total)',
    of(y, dy) {
      const sum = total(y.map((v, k) => v * dy[k]));
      return y.map((v, k) => v * (dy[k] - sum));
    },
  },
  log_softmax_backward: {
    fold: gradients('v.y'),
    result: 'v.y - exp(v.x) * total',
    of(y, dy) {
      const sum = total(dy);
      return y.map((v, k) => dy[k] - Math.exp(v) * sum);
    },
  },
};

/** WGSL: reads the line again, four loads under way at a time. */
const READ_AGAIN = /* wgsl */ `
  let step = LANES * params.inner;
  var k = at.lane;
  for (; k + 3u * LANES < at.end; k += 4u * LANES) {
    let i = at.base + k * params.inner;
    let v = array(value(i), value(i + step), value(i + 2u * step), value(i + 3u * step));
    for (var j = 0u; j < 4u; j++) { store_out(i + j * step, result(v[j], total)); }
  }
  for (; k < at.end; k += LANES) {
    let i = at.base + k * params.inner;
    store_out(i, result(value(i), total));
  }`;

/** Columns of the longest row that the threads of a workgroup hold in registers. */
const MOST_HELD = 4096;

/** WGSL: reads a row once, `count` values a thread, each in a variable: compilers put arrays in memory. */
function hold(count: 4 | 16): string {
  const each = (code: (j: number) => string, step = 1) => Array.from({ length: count / step }, (_, i) => code(i * step));
  const fours = each((j) => `four(v${j}, v${j + 1}, v${j + 2}, v${j + 3}, 0u)`, 4);
  return /* wgsl */ `${each((j) => `
  let c${j} = lane + ${j}u * LANES;
  var v${j} = none();
  if (c${j} < params.columns) { v${j} = value(base + c${j}); }`).join('')}
  let total = total_of(${fours.reduce((a, b) => `join(${a}, ${b})`)}, local);
  if (row >= params.rows) { return; }${each((j) => `
  if (c${j} < params.columns) { store_out(base + c${j}, result(v${j}, total)); }`).join('')}`;
}

/** The op of a kernel: what comes out has the shape and dtype of the first input. */
function lineOp(
  name: keyof typeof KERNELS,
  inputs: readonly string[],
  gradient?: Pick<OpDefinition<SoftmaxAttrs, string, 'out', 'out'>, 'saves' | 'backward'>,
) {
  const { fold, result, of } = KERNELS[name];
  const own = `${fold.helpers ?? ''}
fn none() -> Value { return ${fold.none}; }
fn result(v: Value, total: Acc) -> f32 { return ${result}; }
`;
  return defineOp<SoftmaxAttrs, string, 'out', 'out'>({
    name,
    inputs,
    outputs: ['out'],
    shape(given) {
      const { shape, dtype } = given[inputs[0]];
      expectDType(name, inputs[0], dtype, ...FLOATS);
      return { out: spec(shape, dtype) };
    },
    reference: (given, { out }, { dim }) => mapLines(inputs.map((input) => given[input]), out, dim, of),
    webgpu(reads, { out }, { dim }, device) {
      const { outer, length: len, inner } = around(out.shape, dim);
      const whole = { ...fold, helpers: own };
      const kernel = { key: name, reads, writes: { out } };
      if (inner > 1 || len > MOST_HELD) {
        return [launchFold(device, { outer, len, inner }, { ...kernel, fold: whole, body: READ_AGAIN })];
      }
      const declarations = () => declared(whole) + rowFold('total_of', fold.acc, fold.join);
      const count = len <= MOST_HELD / 4 ? 4 : 16;
      return [launchRows(device, outer, len, { ...kernel, key: `${name} ${count}`, declarations, body: () => hold(count) })];
    },
    wasm(given, { out }, { dim }, { k }) {
      const { outer, length, inner } = around(out.shape, dim);
      const call = k[name] as (...args: (Slot | number)[]) => void;
      if (inner === 1) call(...inputs.map((input) => given[input]), out, outer, length);
      return inner === 1;
    },
    ...gradient,
  });
}

function softmaxOp(name: Name) {
  const backwardOp = lineOp(`${name}_backward`, ['y', 'dy']);
  return lineOp(name, ['x'], {
    saves: ['out'],
    backward: ({ saved, grads, attrs }) => ({ x: apply(backwardOp, { y: saved.out, dy: grads.out! }, attrs).out }),
  });
}

const softmaxOps = /* @__PURE__ */ { softmax: softmaxOp('softmax'), log_softmax: softmaxOp('log_softmax') };

/** exp(x) / Σ exp(x) along `dim`: floats of any shape → the same shape and dtype. */
export function softmax(x: Tensor, dim = -1): Tensor {
  return apply(softmaxOps.softmax, { x }, { dim: normalizeDim('softmax', dim, x.shape.length) }).out;
}

/** x - log Σ exp(x) along `dim`: floats of any shape → the same shape and dtype. */
export function logSoftmax(x: Tensor, dim = -1): Tensor {
  return apply(softmaxOps.log_softmax, { x }, { dim: normalizeDim('log_softmax', dim, x.shape.length) }).out;
}
