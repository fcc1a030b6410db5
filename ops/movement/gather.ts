import { apply } from '../../engine/apply.ts';
import { shader } from '../../engine/backends/webgpu/launch.ts';
import { byteLength, type DType, encoder, expectDType, FLOATS, isFloat } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type HostArg, hostSums, type Op, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { FLAT_MAIN, flatLaunch, sumInBlocks } from '../common/flat.ts';
import { around, normalizeAxis, resized, show } from '../common/shapes.ts';
import { add } from '../elementwise/binary.ts';
import { pad } from './pad.ts';
import { expectMovable } from './strided.ts';
import { slice } from './view.ts';

interface GatherAttrs {
  readonly dim: number;
  /** What floats get whose index is out of range: NaN or 0. Integers get 0. */
  readonly outside: number;
}

/** Where in a tensor, of `size` along the dimension, each element of the index leads; -1 where it is out of range. */
function places({ shape, data }: HostArg, dim: number, size: number): number[] {
  const { length, inner } = around(shape, dim);
  const at = (k: number, i: number) => (Math.floor(i / (length * inner)) * size + k) * inner + (i % inner);
  return Array.from(data, (k, i) => (k >= 0 && k < size ? at(k, i) : -1));
}

/** The bits of a float's NaN. */
const nanBits = (dtype: DType) => (dtype === 'f32' ? 0x7fc00000 : encoder(dtype)(NaN));

function gatherKernel(bytes: number) {
  const half = bytes === 2;
  return shader(`gather.${bytes}`, () => ({
    reads: { x: 'u32', index: 'i32' },
    writes: { y: 'u32' },
    params: { words: 'u32', n: 'u32', block: 'u32', length: 'u32', inner: 'u32', outside: 'u32' },
    code: /* wgsl */ `
fn bits(i: u32) -> u32 {
  if (i >= params.n) { return 0u; }
  let k = u32(index[i]);
  if (k >= params.length) { return params.outside; }
  let at = (i / params.block * params.length + k) * params.inner + i % params.inner;
  return ${half ? '(x[at >> 1u] >> (16u * (at & 1u))) & 0xffffu' : 'x[at]'};
}
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.words) { return; }
  y[i] = ${half ? 'bits(2u * i) | (bits(2u * i + 1u) << 16u)' : 'bits(i)'};
}`,
  }));
}

/** y[…, j, …] = x[…, index[…, j, …], …] where x has the shape of the index but for `dim`. */
const gatherOp: Op<GatherAttrs, 'x' | 'index', 'y'> = /* @__PURE__ */ defineOp({
  name: 'gather',
  inputs: ['x', 'index'],
  outputs: ['y'],
  asStored: { webgpu: ['x', 'y'] },
  shape({ x, index }) {
    expectMovable('gather', x);
    expectDType('gather', 'index', index.dtype, 'i32');
    return { y: spec(index.shape, x.dtype) };
  },
  reference({ x, index }, { y }, { dim, outside }: GatherAttrs) {
    const nothing = isFloat(x.dtype) ? outside : 0;
    places(index, dim, x.shape[dim]).forEach((at, i) => (y.data[i] = at < 0 ? nothing : x.data[at]));
  },
  webgpu({ x, index }, { y }, { dim, outside }) {
    const bytes = byteLength(x.dtype, 1);
    const words = Math.ceil((y.size * bytes) / 4);
    const { length, inner } = around(index.shape, dim);
    const params = [words, y.size, length * inner, x.shape[dim], inner, isFloat(x.dtype) && Number.isNaN(outside) ? nanBits(x.dtype) : 0];
    return [flatLaunch(gatherKernel(bytes), [x, index, y], params, words)];
  },
  saves: ['index'],
  backward: ({ needs, grads, specs, saved: { index }, attrs: { dim } }) => ({
    x: needs.x ? apply(scatterOp, { index, src: grads.y! }, { dim, length: specs.x.shape[dim] }).y : null,
  }),
});

/** y[…, k, …] = Σ over j with index[…, j, …] = k of src[…, j, …], in the order of j. */
const scatterOp: Op<{ readonly dim: number; readonly length: number }, 'index' | 'src', 'y'> = /* @__PURE__ */ defineOp({
  name: 'scatter_add',
  inputs: ['index', 'src'],
  outputs: ['y'],
  shape({ index, src }, { dim, length }: { readonly dim: number; readonly length: number }) {
    expectDType('scatter_add', 'src', src.dtype, ...FLOATS, 'i32', 'u32');
    expectDType('scatter_add', 'index', index.dtype, 'i32');
    return { y: spec(resized(src.shape, dim, length), src.dtype) };
  },
  reference({ index, src }, { y }, { dim, length }) {
    const [sums] = hostSums([y]);
    places(index, dim, length).forEach((at, i) => {
      if (at >= 0) sums.data[at] += src.data[i];
    });
    y.data.set(sums.data);
  },
  webgpu({ index, src }, { y }, { dim, length }) {
    const type = isFloat(src.dtype) ? 'f32' : src.dtype;
    const kernel = shader(`scatter_add.${type}`, () => ({
      reads: { index: 'i32', src: type },
      writes: { y: type },
      params: { n: 'u32', count: 'u32', length: 'u32', inner: 'u32' },
      code: /* wgsl */ `
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  let row = i / params.inner;
  let k = i32(row % params.length);
  let base = row / params.length * params.count * params.inner + i % params.inner;
  var sum = ${type}();
  ${sumInBlocks('let at = base + j * params.inner; if (index[at] == k) { part += src[at]; }', type)}
  y[i] = sum;
}`,
    }));
    const { length: count, inner } = around(src.shape, dim);
    return [flatLaunch(kernel, [index, src, y], [y.size, count, length, inner], y.size)];
  },
  saves: ['index'],
  backward: ({ needs, grads, saved: { index }, attrs: { dim } }) => ({
    src: needs.src ? apply(gatherOp, { x: grads.y!, index }, { dim, outside: 0 }).y : null,
  }),
});

/** The first entries of x in each dimension, as many as `shape` has. */
function first(x: Tensor, shape: readonly number[]): Tensor {
  return shape.reduce((y, size, dim) => (size < x.shape[dim] ? slice(y, dim, 0, size) : y), x);
}

/** @throws ShapeError unless the index is as large as `like` or smaller, but for `free` */
function expectWithin(op: string, index: Tensor, name: string, like: Tensor, free?: number): void {
  const fits = index.shape.every((n, d) => d === free || n <= like.shape[d]);
  if (index.shape.length === like.shape.length && fits) return;
  throw new ShapeError(
    `${op}: index has shape ${show(index.shape)}, expected that of ${name} ${show(like.shape)} or less` +
      (free === undefined ? '' : `, but any size in dim ${free}`),
  );
}

/**
 * y[i][j][k] = x[i][index[i][j][k]][k] for dim 1 (torch.gather). An index out of range gives NaN, and 0 for integers.
 * @param x of any dtype but int8 and int4; gradients for floats
 * @param index i32, of x's shape but free along `dim`, and not larger elsewhere
 * @returns x's dtype, the index's shape
 */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  const own = normalizeAxis('gather', dim, x.shape.length);
  expectWithin('gather', index, 'x', x, own);
  return apply(gatherOp, { x: first(x, resized(index.shape, own, x.shape[own])), index }, { dim: own, outside: NaN }).y;
}

/**
 * x with src added where the index says: y[i][index[i][j][k]][k] += src[i][j][k] for dim 1 (torch.scatter_add), in
 * the order of j, so that every run gives the same bits. What an index out of range names is left out.
 * @param x f32, f16, bf16, i32 or u32; gradients for floats, as for src
 * @param index i32, not larger than src in any dimension, nor than x but along `dim`
 * @param src x's dtype
 */
export function scatterAdd(x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor {
  const own = normalizeAxis('scatter_add', dim, x.shape.length);
  expectWithin('scatter_add', index, 'src', src);
  expectWithin('scatter_add', index, 'x', x, own);
  expectDType('scatter_add', 'src', src.dtype, x.dtype);
  const added = apply(scatterOp, { index, src: first(src, index.shape) }, { dim: own, length: x.shape[own] }).y;
  const missing = x.shape.map((n, d) => n - added.shape[d]).reverse();
  return add(x, missing.some((n) => n > 0) ? pad(added, missing.flatMap((n) => [0, n])) : added);
}
