import { apply } from '../../engine/apply.ts';
import { accessor, plain } from '../../engine/access.ts';
import type { Spec } from '../../engine/backend.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { FLAT_INDEX, grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, byteLength, type DType, expectDType, FLOATS, formatNumber, isBlock, isFloat, isPlain } from '../../engine/dtype.ts';
import { defineOp, hostSums, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { FLAT_MAIN, flatLaunch, sumInBlocks } from '../common/flat.ts';
import { columnSum } from '../common/rows.ts';
import { around, expectRank, normalizeDim } from '../common/shapes.ts';
import scatterRows from './scatter-rows.wgsl';

interface LookupAttrs {
  readonly dim: number;
}

/** The bits of a quiet NaN, for what an index out of range would have named. */
const NAN_BITS = 0x7fc00000;

/**
 * Slices of `table` along `dim` that `index` names, in its order, as f32 where the table stores something narrower; the
 * shape rule is the caller's.
 */
export function lookupOp(name: string, shape: (table: Spec, index: Spec, attrs: LookupAttrs) => Spec): Op<LookupAttrs, 'table' | 'index', 'y'> {
  return defineOp({
    name,
    inputs: ['table', 'index'],
    outputs: ['y'],
    asStored: { webgpu: ['table'], wasm: ['table'] },
    shape({ table, index }, attrs: LookupAttrs) {
      expectDType(name, 'index', index.dtype, 'i32');
      return { y: shape(table, index, attrs) };
    },
    reference({ table, index }, { y }, { dim }) {
      const { outer, length, inner } = around(table.shape, dim);
      const nothing = isFloat(table.dtype) ? NaN : 0;
      let i = 0;
      for (let o = 0; o < outer; o++) {
        for (const k of index.data) {
          const known = k >= 0 && k < length;
          for (let c = 0; c < inner; c++) y.data[i++] = known ? table.data[(o * length + k) * inner + c] : nothing;
        }
      }
    },
    webgpu({ table, index }, { y }, { dim }, { caps }) {
      const { length, inner } = around(table.shape, dim);
      const wide = inner % 4 === 0;
      const step = wide ? 4 : 1;
      // Words keep their bits, whatever they stand for.
      const own = isPlain(table.dtype) ? plain('u32') : accessOf(table.dtype, caps);
      const [from, to] = [accessor(own, wide), accessor(plain(own.type), wide)];
      const kernel = shader(`index_select.${from.key}`, () => ({
        reads: { table: from, index: 'i32' },
        writes: { y: to },
        params: { n: 'u32', count: 'u32', length: 'u32', inner: 'u32', nothing: 'u32' },
        code: /* wgsl */ `
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  let c = i % params.inner;
  let row = i / params.inner;
  let outer = row / params.count;
  let k = u32(index[row % params.count]);
  var value = ${to.stored}(bitcast<${own.type}>(params.nothing));
  if (k < params.length) { value = load_table((outer * params.length + k) * params.inner + c); }
  store_y(i, value);
}`,
      }));
      const params = [y.size / step, index.size, length, inner / step, isFloat(table.dtype) ? NAN_BITS : 0];
      return [flatLaunch(kernel, [table, index, y], params, y.size / step)];
    },
    wasm({ table, index }, { y }, { dim }, { k }) {
      if (!isFloat(table.dtype)) return false;
      const { outer, length, inner } = around(table.shape, dim);
      for (let o = 0; o < outer; o++) {
        const from = at(table, byteLength(table.dtype, o * length * inner));
        const to = at(y, 4 * o * index.size * inner);
        k.gather_rows(from, index, to, index.size, inner, length, formatNumber(table.dtype));
      }
      return true;
    },
    saves: ['index'],
    backward({ needs, grads, specs, saved: { index }, attrs: { dim } }) {
      const { shape, dtype } = specs.table;
      if (!needs.table || isBlock(dtype)) return {};
      return { table: apply(lookupBackward, { index, dy: grads.y! }, { dim, shape, dtype }).dx };
    },
  });
}

interface LookupBackwardAttrs extends LookupAttrs {
  /** Of the table. */
  readonly shape: readonly number[];
  readonly dtype: DType;
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
const lookupBackward = /* @__PURE__ */ defineOp({
  name: 'index_select_backward',
  inputs: ['index', 'dy'],
  outputs: ['dx'],
  shape: (_, { shape, dtype }: LookupBackwardAttrs) => ({ dx: spec(shape, dtype) }),
  reference({ index, dy }, { dx }, { dim }) {
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
  webgpu({ index, dy }, { dx }, { dim }, { scratch }) {
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
  wasm({ index, dy }, { dx }, { dim }, { k, sizes, scratch }) {
    const { outer, length, inner } = around(dx.shape, dim);
    const room = scratch(sizes.scatter_rows_scratch(index.size, inner, length));
    for (let o = 0; o < outer; o++) {
      const [from, to] = [at(dy, o * index.size * inner * 4), at(dx, o * length * inner * 4)];
      k.scatter_rows(from, index, to, index.size, inner, length, room);
    }
    return true;
  },
});

const indexSelectOp = /* @__PURE__ */ lookupOp('index_select', (x, index, { dim }) => {
  expectDType('index_select', 'x', x.dtype, ...FLOATS, 'i32', 'u32', 'bool');
  expectRank('index_select', 'index', index, 1);
  return spec([...x.shape.slice(0, dim), index.shape[0], ...x.shape.slice(dim + 1)], x.dtype);
});

/**
 * Slices of `x` along `dim`, in the order of `index` (torch.index_select). An index out of range gives NaN, and 0 for
 * integers.
 * @param x (…, n, …) of any dtype but int8 and int4; gradients for floats
 * @param index i32 (m)
 * @returns (…, m, …) of x's dtype
 */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  return apply(indexSelectOp, { table: x, index }, { dim: normalizeDim('index_select', dim, x.shape.length) }).y;
}
