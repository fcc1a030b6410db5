import { expectWhole } from '../../engine/arguments.ts';
import { FLAT_INDEX, grid1d, MAX_GRID, type Launch, shader, type Shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply, apply1, defineOp, type GpuArg, type GpuCall, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { comesBefore, ORDER } from './order.ts';
import { around, normalizeDim, show } from '../common/shapes.ts';
import code from './topk.wgsl';
import backwardCode from './topk_backward.wgsl';

interface TopkAttrs {
  readonly k: number;
  readonly dim: number;
}

/** Elements whose keys one workgroup keeps in its memory. */
const CACHE = 2048;
/** Most values asked for where a long line is first cut into parts. */
const MOST_FROM_PARTS = 256;

const LINE = { lines: 'u32', len: 'u32', inner: 'u32', k: 'u32' } as const;

function topkShader(cached: boolean, mapped: boolean): Shader {
  return shader(`topk.${cached}.${mapped}`, () => ({
    reads: { x: 'f32', ...(mapped ? { ids: 'i32' } : {}) },
    writes: { values: 'f32', indices: 'i32' },
    params: { ...LINE, chunk: 'u32' },
    constants: { CACHED: cached ? 1 : 0, CACHE: cached ? CACHE : 1 },
    code: [ORDER, FLAT_INDEX, mapped ? FROM_IDS : FROM_PLACE, code].join('\n'),
  }));
}

const FROM_PLACE = 'fn place_of(base: u32, begin: u32, i: u32) -> i32 { return i32(begin + i); }';
const FROM_IDS = 'fn place_of(base: u32, begin: u32, i: u32) -> i32 { return ids[base + i * params.inner]; }';

/** One launch, or for long lines a launch that chooses k of every part, and so on with what those chose. */
function topkLaunches(call: GpuCall<TopkAttrs>): Launch[] {
  const { inputs: [x], outputs, attrs: { k, dim } } = call;
  const { outer, length, inner } = around(x.shape, dim);
  const launches: Launch[] = [];
  let from: readonly GpuArg[] = [x];
  for (let len = length; ; ) {
    const chunk = len > CACHE && k <= MOST_FROM_PARTS ? Math.max(CACHE, Math.ceil(len / MAX_GRID)) : len;
    const parts = Math.max(1, Math.ceil(len / chunk));
    const shape = [outer, parts * k, inner];
    const to = parts > 1 ? [call.scratch(shape), call.scratch(shape, 'i32')] : outputs;
    launches.push({
      shader: topkShader(chunk <= CACHE, from.length > 1),
      args: [...from, ...to],
      params: [outer * inner, len, inner, k, chunk],
      grid: grid1d(outer * inner, 1, parts),
    });
    if (parts === 1) return launches;
    len = parts * k;
    from = to;
  }
}

const backwardShader = () =>
  shader('topk_backward', () => ({
    reads: { indices: 'i32', dy: 'f32' },
    writes: { dx: 'f32' },
    params: LINE,
    code: FLAT_INDEX + backwardCode,
  }));

/** Puts dy at the chosen indices of zeros. */
const topkBackward = /* @__PURE__ */ defineOp<TopkAttrs & { shape: readonly number[] }>({
  name: 'topk_backward',
  shape: (_, { shape }) => [spec(shape)],
  reference({ inputs: [indices, dy], outputs: [dx], attrs: { k, dim } }) {
    const { length, inner } = around(dx.shape, dim);
    dx.data.fill(0);
    for (let o = 0; o < dy.size; o++) {
      const outer = Math.floor(o / (k * inner));
      dx.data[(outer * length + indices.data[o]) * inner + (o % inner)] = dy.data[o];
    }
  },
  webgpu({ inputs: [indices, dy], outputs: [dx], attrs: { k, dim } }) {
    const { outer, length, inner } = around(dx.shape, dim);
    const params = [outer * inner, length, inner, k];
    return [{ shader: backwardShader(), args: [indices, dy, dx], params, grid: grid1d(outer * inner, 1) }];
  },
});

export const topkOp = /* @__PURE__ */ defineOp<TopkAttrs>({
  name: 'topk',
  shape([x], { k, dim }) {
    expectDType('topk', 'x', x.dtype, 'f32');
    expectWhole('topk', 'k', k);
    const most = x.shape[dim] ?? 1;
    if (k > most) {
      throw new ShapeError(`topk: k is ${k}, expected at most the ${most} of dim ${dim} of ${show(x.shape)}`);
    }
    const shape = x.shape.map((d, i) => (i === dim ? k : d));
    return [spec(shape), spec(shape, 'i32')];
  },
  reference({ inputs: [x], outputs: [values, indices], attrs: { k, dim } }) {
    const { outer, length, inner } = around(x.shape, dim);
    for (let line = 0; line < outer * inner; line++) {
      const column = line % inner;
      const at = (i: number) => x.data[((line - column) / inner) * length * inner + i * inner + column];
      const order = Array.from({ length }, (_, i) => i);
      order.sort((i, j) => (comesBefore(at(i), i, at(j), j) ? -1 : 1));
      for (let round = 0; round < k; round++) {
        const o = (((line - column) / inner) * k + round) * inner + column;
        values.data[o] = at(order[round]);
        indices.data[o] = order[round];
      }
    }
  },
  webgpu: topkLaunches,
  saves: { outputs: [1] },
  backward({ output, inputSpecs, grads, attrs }) {
    return [grads[0] && apply1(topkBackward, [output(1), grads[0]], { ...attrs, shape: inputSpecs[0].shape })];
  },
});

/**
 * The k largest elements along `dim`, largest first, and their indices (i32); the lower index first among equals, NaN
 * largest. The values carry a gradient.
 */
export function topk(x: Tensor, k: number, dim = -1): [values: Tensor, indices: Tensor] {
  const [values, indices] = apply(topkOp, [x], { k, dim: normalizeDim('topk', dim, x.shape.length) });
  return [values, indices];
}
