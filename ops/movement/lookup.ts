import { apply } from '../../engine/apply.ts';
import type { Spec } from '../../engine/backend.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, byteLength, type DType, expectDType, formatNumber, isBlock, isFloat } from '../../engine/dtype.ts';
import { defineOp, type HostArg, hostSums, type Op, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchElements, launchKernel, sumInBlocks } from '../common/launch-kernel.ts';
import { around } from '../common/shapes.ts';
import { sumRows } from '../reduce/fold.ts';
import scatterRows from './scatter-rows.wgsl';

interface LookupAttrs {
  readonly dim: number;
  /** What floats get whose index is out of range: NaN or 0. Integers get 0. */
  readonly outside: number;
}

interface AdditionAttrs {
  readonly dim: number;
  /** Of the table that is added to. */
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** What an index names: a whole slice of the table, the same in all rows of it, or one element. */
type Unit = 'slice' | 'element';

/** A table as (outer, length, inner), and the `count` entries of each outer part that are looked up, or added to it. */
interface Sizes {
  readonly outer: number;
  readonly length: number;
  readonly inner: number;
  readonly count: number;
}

function sizesOf(table: Spec, index: Spec & { readonly size: number }, unit: Unit, dim: number): Sizes {
  return { ...around(table.shape, dim), count: unit === 'slice' ? index.size : index.shape[dim] };
}

/** Where in the table each element that is looked up lies, in order; −1 for an index out of range. */
function placesIn({ outer, length, inner, count }: Sizes, { data }: HostArg, unit: Unit): number[] {
  return Array.from({ length: outer * count * inner }, (_, i) => {
    const row = Math.floor(i / inner);
    const k = data[unit === 'slice' ? row % count : i];
    return k >= 0 && k < length ? (Math.floor(row / count) * length + k) * inner + (i % inner) : -1;
  });
}

interface Lookup {
  /** Looks entries of `table` up along a dimension. */
  readonly lookup: Op<LookupAttrs, 'table' | 'index', 'y'>;
  /** Adds to entries of a table of zeros, where the index is in range: the gradient of a lookup, as that is of this for elements. */
  readonly addition: Op<AdditionAttrs, 'index' | 'src', 'y'>;
}

/** The two ops of an index that names what `unit` says; `shape` checks a table and says what is looked up in it. */
export function defineLookup(
  [name, additionName]: readonly [lookup: string, addition: string],
  unit: Unit,
  shape: (table: Spec, index: Spec, dim: number) => Spec,
): Lookup {
  const lookup: Lookup['lookup'] = defineOp({
    name,
    inputs: ['table', 'index'],
    outputs: ['y'],
    asStored: { wasm: ['table'] },
    shape({ table, index }, { dim }: LookupAttrs) {
      expectDType(name, 'index', index.dtype, 'i32');
      return { y: shape(table, index, dim) };
    },
    reference({ table, index }, { y }, { dim, outside }) {
      const nothing = isFloat(table.dtype) ? outside : 0;
      const places = placesIn(sizesOf(table, index, unit, dim), index, unit);
      places.forEach((place, i) => (y.data[i] = place < 0 ? nothing : table.data[place]));
    },
    webgpu({ table, index }, { y }, { dim, outside }, device) {
      const { length, inner, count } = sizesOf(table, index, unit, dim);
      const step = unit === 'slice' && inner % 4 === 0 ? 4 : 1;
      const { type } = accessOf(table.dtype, device.caps);
      // NaN by its bits, of which compilers may assume that there are none.
      const nothing = isFloat(table.dtype) && Number.isNaN(outside) ? 0x7fc00000 : 0;
      return [launchElements(device, y.size / step, {
        key: `lookup.${unit}`,
        reads: { table, index },
        writes: { y },
        wide: step === 4 ? ['table', 'y'] : [],
        params: { count, length, inner: inner / step, nothing },
        body: () => /* wgsl */ `let row = i / params.inner;
  let k = u32(load_index(${unit === 'slice' ? 'row % params.count' : 'i'}));
  var value = ${step === 4 ? `vec4<${type}>` : type}(bitcast<${type}>(params.nothing));
  if (k < params.length) { value = load_table((row / params.count * params.length + k) * params.inner + i % params.inner); }
  store_y(i, value);`,
      })];
    },
    wasm({ table, index }, { y }, { dim }, { k }) {
      if (!isFloat(table.dtype) || unit === 'element') return false;
      const { outer, length, inner, count } = sizesOf(table, index, unit, dim);
      for (let o = 0; o < outer; o++) {
        const from = at(table, byteLength(table.dtype, o * length * inner));
        k.gather_rows(from, index, at(y, 4 * o * count * inner), count, inner, length, formatNumber(table.dtype));
      }
      return true;
    },
    saves: ['index'],
    backward({ needs, grads, specs: { table: { shape, dtype } }, saved: { index }, attrs: { dim } }) {
      if (!needs.table || isBlock(dtype)) return {};
      return { table: apply(addition, { index, src: grads.y! }, { dim, shape, dtype }).y };
    },
  });

  const addition: Lookup['addition'] = defineOp({
    name: additionName,
    inputs: ['index', 'src'],
    outputs: ['y'],
    shape: (_, { shape, dtype }: AdditionAttrs) => ({ y: spec(shape, dtype) }),
    reference({ index, src }, { y }, { dim }) {
      const [sums] = hostSums([y]);
      placesIn(sizesOf(y, index, unit, dim), index, unit).forEach((place, i) => {
        if (place >= 0) sums.data[place] += src.data[i];
      });
      y.data.set(sums.data);
    },
    webgpu({ index, src }, { y }, { dim }, device) {
      const sizes = sizesOf(y, index, unit, dim);
      return ADDITIONS.find(({ when }) => when(sizes, unit))!.launches(index, src, y, sizes, unit, device);
    },
    wasm({ index, src }, { y }, { dim }, { k, sizes, scratch }) {
      if (unit === 'element') return false;
      const { outer, length, inner, count } = sizesOf(y, index, unit, dim);
      const room = scratch(sizes.scatter_rows_scratch(count, inner, length));
      for (let o = 0; o < outer; o++) {
        k.scatter_rows(at(src, 4 * o * count * inner), index, at(y, 4 * o * length * inner), count, inner, length, room);
      }
      return true;
    },
    saves: ['index'],
    // What adds slices is a gradient alone.
    backward: unit === 'slice' ? undefined : ({ grads, saved: { index }, attrs: { dim } }) => ({
      src: apply(lookup, { table: grads.y!, index }, { dim, outside: 0 }).y,
    }),
  });
  return { lookup, addition };
}

/** Rows and columns of the table that one workgroup of `scatter-rows.wgsl` owns. */
const ROWS = 16;
const COLUMNS = 128;
/** Elements of all partial sums together, at most. */
const PARTIAL_LIMIT = 2 ** 24;
const MAX_PARTS = 64;
const MIN_PART = 256;

/**
 * y[o, k, c] = Σ over j whose index is k of src[o, j, c], in the order of j: without atomics, so that every run gives
 * the same bits. The first variant that fits is taken.
 */
const ADDITIONS: readonly {
  readonly name: string;
  when(sizes: Sizes, unit: Unit): boolean;
  launches(index: Slot, src: Slot, y: Slot, sizes: Sizes, unit: Unit, device: GpuPlanner): Launch[];
}[] = [
  {
    // An invocation an element of the table walks over the index.
    name: 'elements',
    when: ({ outer, inner }, unit) => unit === 'element' || outer > 1 || inner < COLUMNS / 8,
    launches(index, src, y, { length, inner, count }, unit, device) {
      const { type } = accessOf(y.dtype, device.caps);
      return [launchElements(device, y.size, {
        key: `scatter.${unit}`,
        reads: { index, src },
        writes: { y },
        params: { count, length, inner },
        body: () => /* wgsl */ `let row = i / params.inner;
  let k = i32(row % params.length);
  let base = row / params.length * params.count * params.inner + i % params.inner;
  var sum = ${type}();
  ${sumInBlocks(`let at = base + j * params.inner;
    if (load_index(${unit === 'slice' ? 'j' : 'at'}) == k) { part += load_src(at); }`, type)}
  store_y(i, sum);`,
      })];
    },
  },
  {
    // Each workgroup owns rows of the table and reads the whole index, or where the table is small a part of it.
    name: 'rows',
    when: () => true,
    launches(index, src, y, { length, inner, count }, _, device) {
      const most = Math.min(MAX_PARTS, PARTIAL_LIMIT / y.size, Math.ceil(count / MIN_PART));
      const each = Math.max(1, Math.ceil(count / Math.max(1, Math.floor(most))));
      const parts = Math.max(1, Math.ceil(count / each));
      const sums = parts === 1 ? y : device.scratch([parts, y.size]);
      const first = launchKernel(device, {
        key: 'scatter.rows',
        reads: { index, src },
        writes: { y: sums },
        workgroup: COLUMNS,
        params: { count, length, inner, each },
        constants: { ROWS },
        code: () => scatterRows,
        groups: Math.ceil(length / ROWS) * Math.ceil(inner / COLUMNS) * parts,
      });
      return parts === 1 ? [first] : [first, sumRows(device, sums, y)];
    },
  },
];
