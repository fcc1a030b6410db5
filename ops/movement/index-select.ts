import { FLAT_INDEX, grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { type DType, expectDType, isFloat } from '../../engine/dtype.ts';
import { apply1, defineOp, hostSums, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { cast } from '../elementwise/cast.ts';
import { FLAT_MAIN, flatLaunch, sumInBlocks } from '../common/flat.ts';
import { columnSum } from '../common/rows.ts';
import scatterRows from './scatter-rows.wgsl';
import { around, expectRank, normalizeDim } from '../common/shapes.ts';

export interface LookupAttrs {
  readonly dim: number;
}

/** The bits of a quiet NaN, for what an index out of range would have named. */
const NAN_BITS = 0x7fc00000;

const READERS = {
  word: { type: 'u32', load: 'xs[i]' },
  f16: { type: 'u32', load: 'bitcast<u32>(unpack2x16float(xs[i / 2u])[i % 2u])' },
  bf16: { type: 'u32', load: 'select(xs[i / 2u] << 16u, xs[i / 2u] & 0xffff0000u, i % 2u == 1u)' },
  quad: { type: 'vec4<u32>', load: 'xs[i]' },
} as const;

function lookupShader(reader: keyof typeof READERS) {
  const { type, load } = READERS[reader];
  const out = reader === 'quad' ? 'vec4<u32>' : 'u32';
  return shader(`index_select.${reader}`, () => ({
    reads: { xs: type, index: 'i32' },
    writes: { ys: out },
    params: { n: 'u32', count: 'u32', length: 'u32', inner: 'u32', nan: 'u32' },
    code: /* wgsl */ `
fn load(i: u32) -> ${out} { return ${load}; }
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  let c = i % params.inner;
  let row = i / params.inner;
  let outer = row / params.count;
  let k = u32(index[row % params.count]);
  var value = ${out}(params.nan);
  if (k < params.length) { value = load((outer * params.length + k) * params.inner + c); }
  ys[i] = value;
}`,
  }));
}

function reader(dtype: DType, inner: number): keyof typeof READERS {
  if (dtype === 'f16' || dtype === 'bf16') return dtype;
  return inner % 4 === 0 ? 'quad' : 'word';
}

/** Slices of `x` along `dim` that `index` names, in its order; the shape rule is the caller's. */
export function lookupOp(name: string, shape: Op<LookupAttrs>['shape']): Op<LookupAttrs> {
  return defineOp<LookupAttrs>({
    name,
    shape(inputs, attrs) {
      expectDType(name, 'index', inputs[1].dtype, 'i32');
      return shape(inputs, attrs);
    },
    reference({ inputs: [x, index], outputs: [y], attrs: { dim } }) {
      const { outer, length, inner } = around(x.shape, dim);
      const nothing = isFloat(x.dtype) ? NaN : 0;
      let i = 0;
      for (let o = 0; o < outer; o++) {
        for (const k of index.data) {
          const known = k >= 0 && k < length;
          for (let c = 0; c < inner; c++) y.data[i++] = known ? x.data[(o * length + k) * inner + c] : nothing;
        }
      }
    },
    webgpu({ inputs: [x, index], outputs: [y], attrs: { dim } }) {
      const { length, inner } = around(x.shape, dim);
      const kind = reader(x.dtype, inner);
      const width = kind === 'quad' ? 4 : 1;
      const params = [y.size / width, index.size, length, inner / width, isFloat(x.dtype) ? NAN_BITS : 0];
      return [flatLaunch(lookupShader(kind), [x, index, y], params, y.size / width)];
    },
    wasm({ inputs: [x, index], outputs: [y], attrs: { dim }, k }) {
      if (x.dtype !== 'f32') return false;
      const { outer, length, inner } = around(x.shape, dim);
      for (let o = 0; o < outer; o++) {
        const [from, to] = [x.ptr + o * length * inner * 4, y.ptr + o * index.size * inner * 4];
        k.gather_rows(from, index.ptr, to, index.size, inner, length);
      }
      return true;
    },
    saves: { inputs: [1] },
    backward({ needs, grads, inputSpecs: [{ shape, dtype }], input, attrs }) {
      if (!needs[0]) return [null, null];
      return [cast(apply1(lookupBackward, [input(1), grads[0]!], { dim: attrs.dim, shape }), dtype), null];
    },
  });
}

interface LookupBackwardAttrs extends LookupAttrs {
  readonly shape: readonly number[];
}

/** One invocation per element of dx walks over the index: for short rows. */
const SCATTER_ELEMENTS = /* wgsl */ `
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  let c = i % params.inner;
  let row = i / params.inner;
  let base = (row / params.length) * params.count;
  let k = i32(row % params.length);
  var sum = 0.0;
  ${sumInBlocks('if (index[j] == k) { part += dys[(base + j) * params.inner + c]; }')}
  dxs[i] = sum;
}`;

/** Rows and columns of dx that one workgroup of `scatter-rows.wgsl` owns. */
const ROWS = 16;
const COLUMNS = 128;
/** Elements of all partial sums together, at most. */
const PARTIAL_LIMIT = 2 ** 24;
const MAX_SLICES = 64;
const MIN_SLICE = 256;

/**
 * dx[o, k, c] = Σ over j with index[j] = k of dy[o, j, c], in the order of j. Without atomics, so that every run gives
 * the same bits: each workgroup owns rows of dx and reads the whole index (or a slice of it, where dx is small).
 */
const lookupBackward = /* @__PURE__ */ defineOp<LookupBackwardAttrs>({
  name: 'index_select_backward',
  shape: (_, { shape }) => [spec(shape)],
  reference({ inputs: [index, dy], outputs: [dx], attrs: { dim } }) {
    const { outer, length, inner } = around(dx.shape, dim);
    const [sums] = hostSums([dx]);
    let i = 0;
    for (let o = 0; o < outer; o++) {
      for (const k of index.data) {
        const known = k >= 0 && k < length;
        for (let c = 0; c < inner; c++, i++) if (known) sums.data[(o * length + k) * inner + c] += dy.data[i];
      }
    }
    dx.data.set(sums.data);
  },
  webgpu({ inputs: [index, dy], outputs: [dx], attrs: { dim }, scratch }) {
    const { outer, length, inner } = around(dx.shape, dim);
    const count = index.size;
    if (outer > 1 || inner < COLUMNS / 8) {
      const elementsShader = shader('index_select.backward.elements', () => ({
        reads: { index: 'i32', dys: 'f32' },
        writes: { dxs: 'f32' },
        params: { n: 'u32', count: 'u32', length: 'u32', inner: 'u32' },
        code: SCATTER_ELEMENTS,
      }));
      return [flatLaunch(elementsShader, [index, dy, dx], [dx.size, count, length, inner], dx.size)];
    }
    const most = Math.min(MAX_SLICES, PARTIAL_LIMIT / dx.size, Math.ceil(count / MIN_SLICE));
    const perSlice = Math.max(1, Math.ceil(count / Math.max(1, Math.floor(most))));
    const slices = Math.max(1, Math.ceil(count / perSlice));
    const target = slices === 1 ? dx : scratch([slices, dx.size]);
    const first: Launch = {
      shader: shader('index_select.backward.rows', () => ({
        reads: { index: 'i32', dys: 'f32' },
        writes: { dxs: 'f32' },
        params: { count: 'u32', length: 'u32', inner: 'u32', slice: 'u32' },
        constants: { ROWS, COLUMNS },
        code: FLAT_INDEX + scatterRows,
      })),
      args: [index, dy, target],
      params: [count, length, inner, perSlice],
      grid: grid1d(Math.ceil(length / ROWS) * Math.ceil(inner / COLUMNS), 1, slices),
    };
    return slices === 1 ? [first] : [first, columnSum(target, dx, slices, dx.size, 0)];
  },
  wasm({ inputs: [index, dy], outputs: [dx], attrs: { dim }, k, scratch }) {
    const { outer, length, inner } = around(dx.shape, dim);
    const room = scratch(k.scatter_rows_scratch(index.size, inner, length));
    for (let o = 0; o < outer; o++) {
      const [from, to] = [dy.ptr + o * index.size * inner * 4, dx.ptr + o * length * inner * 4];
      k.scatter_rows(from, index.ptr, to, index.size, inner, length, room);
    }
    return true;
  },
});

/** The op behind `indexSelect`. */
export const indexSelectOp = /* @__PURE__ */ lookupOp('index_select', ([x, index], { dim }) => {
  expectDType('index_select', 'x', x.dtype, 'f32', 'i32', 'u32', 'bool');
  expectRank('index_select', 'index', index, 1);
  return [spec([...x.shape.slice(0, dim), index.shape[0], ...x.shape.slice(dim + 1)], x.dtype)];
});

/**
 * Slices of `x` along `dim`, in the order of `index` (torch.index_select). An index out of range gives NaN, and 0 for
 * integers.
 * @param x (…, n, …) of any 4-byte dtype; gradients for f32
 * @param index i32 (m)
 * @returns (…, m, …)
 */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  return apply1(indexSelectOp, [x, index], { dim: normalizeDim('index_select', dim, x.shape.length) });
}
