import { apply } from '../../engine/apply.ts';
import { elements, type Spec } from '../../engine/backend.ts';
import { type DType, expectDType, FLOATS, isBlock, WEIGHTS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import { scope, scoped } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { broadcastShapes, show } from '../common/shapes.ts';
import { reshape } from '../movement/reshape.ts';
import { expand } from '../movement/view.ts';
import { sumTo } from '../reduce/sum.ts';
import { type Product, productFlops, productOnHost, productOnWasm } from './product.ts';
import { productOnGpu } from './variants.ts';

interface MatmulAttrs {
  /** Whether a is stored (…, K, M), and b (…, N, K). */
  readonly transA?: boolean;
  readonly transB?: boolean;
  /** Of the result; left out, that of both where they are alike, a's where b is stored in blocks, and else f32. */
  readonly dtype?: DType;
}

/** The product of two 4-D operands (outer batch, inner batch, rows, columns). */
function productOf(a: Spec, b: Spec, { transA = false, transB = false }: MatmulAttrs): Product {
  const [M, K] = transA ? [a.shape[3], a.shape[2]] : [a.shape[2], a.shape[3]];
  const [inner, N] = transB ? [b.shape[3], b.shape[2]] : [b.shape[2], b.shape[3]];
  if (inner !== K) {
    throw new ShapeError(`matmul: ${show(a.shape)} and ${show(b.shape)} do not fit: ${K} columns against ${inner} rows`);
  }
  const [outer, middle] = broadcastShapes('matmul', a.shape.slice(0, 2), b.shape.slice(0, 2));
  const strides = ({ shape }: Spec): [number, number] => {
    const size = shape[2] * shape[3];
    return [shape[0] === 1 ? 0 : shape[1] * size, shape[1] === 1 ? 0 : size];
  };
  return { M, N, K, transA, transB, batch: [outer, middle], strideA: strides(a), strideB: strides(b) };
}

const matmulOp: Op<MatmulAttrs, 'a' | 'b', 'c'> = /* @__PURE__ */ defineOp({
  name: 'matmul',
  inputs: ['a', 'b'],
  outputs: ['c'],
  asStored: { webgpu: ['c'], wasm: ['a', 'b'] },
  shape({ a, b }, attrs: MatmulAttrs) {
    expectDType('matmul', 'a', a.dtype, ...FLOATS);
    expectDType('matmul', 'b', b.dtype, ...WEIGHTS);
    const { batch, M, N } = productOf(a, b, attrs);
    const natural = a.dtype === b.dtype || isBlock(b.dtype) ? a.dtype : 'f32';
    return { c: spec([...batch, M, N], attrs.dtype ?? natural) };
  },
  flops: ({ a, b }, _, attrs) => productFlops(productOf(a, b, attrs)),
  reference({ a, b }, { c }, attrs) {
    productOnHost(productOf(a, b, attrs), a, b, undefined, c);
  },
  webgpu({ a, b }, { c }, attrs, device) {
    return productOnGpu(productOf(a, b, attrs), { a, b, c }, device);
  },
  wasm({ a, b }, { c }, attrs, device) {
    productOnWasm(productOf(a, b, attrs), { a, b, c }, device);
    return true;
  },
  saves: ['a', 'b'],
  backward({ attrs: { transA = false, transB = false }, saved, grads, needs, specs }) {
    const dc = grads.c!;
    /** The product that is a gradient, of an operand as it is stored. */
    const product = (a: Tensor, b: Tensor, attrs: MatmulAttrs, of: Spec) =>
      sumTo(apply(matmulOp, { a, b }, { ...attrs, dtype: of.dtype }).c, of.shape);
    const da = () =>
      transA
        ? product(saved.b, dc, { transA: transB, transB: true }, specs.a)
        : product(dc, saved.b, { transB: !transB }, specs.a);
    const db = () =>
      transB
        ? product(dc, saved.a, { transA: true, transB: transA }, specs.b)
        : product(saved.a, dc, { transA: !transA }, specs.b);
    return { a: needs.a ? da() : null, b: needs.b && !isBlock(specs.b.dtype) ? db() : null };
  },
});

/** Product of two matrices, either stored transposed. */
export function matmul2d(a: Tensor, b: Tensor, attrs: MatmulAttrs = {}): Tensor {
  return scope(() => {
    const { c } = apply(matmulOp, { a: reshape(a, [1, 1, ...a.shape]), b: reshape(b, [1, 1, ...b.shape]) }, attrs);
    return reshape(c, c.shape.slice(2));
  });
}

/** An operand with its batch dimensions brought to two, repeated where two are not enough to broadcast them. */
function withTwoBatches(x: Tensor, batch: readonly number[]): Tensor {
  const matrix = x.shape.slice(-2);
  const own = [...new Array(batch.length - (x.shape.length - 2)).fill(1), ...x.shape.slice(0, -2)];
  if (batch.length <= 2) return reshape(x, [...new Array(2 - batch.length).fill(1), ...own, ...matrix]);
  if (elements(own) === 1) return reshape(x, [1, 1, ...matrix]);
  return reshape(expand(x, [...batch, ...matrix]), [1, elements(batch), ...matrix]);
}

/**
 * Matrix product as torch has it: (…, M, K) · (…, K, N) → (…, M, N) with the leading dimensions broadcast; a vector on
 * the left is a row, on the right a column, and that dimension is dropped again. Sums are f32.
 * @param b stored in any format of `WEIGHTS`; in int8 and int4 a matrix at least, and without a gradient
 * @returns of the dtype of both, of a's where b is int8 or int4, and f32 for two floats that differ
 */
export const matmul = /* @__PURE__ */ scoped((a: Tensor, b: Tensor): Tensor => {
  if (a.shape.length === 0 || b.shape.length === 0) {
    throw new ShapeError(`matmul: ${show(a.shape)} and ${show(b.shape)}: expected at least one dimension each`);
  }
  if (a.shape.length === 1) {
    const c = matmul(reshape(a, [1, a.size]), b);
    return reshape(c, c.shape.filter((_, i) => i !== c.shape.length - (b.shape.length === 1 ? 1 : 2)));
  }
  if (b.shape.length === 1) {
    const c = matmul(a, reshape(b, [b.size, 1]));
    return reshape(c, c.shape.slice(0, -1));
  }
  if (b.shape.length === 2) {
    const rows = elements(a.shape.slice(0, -1));
    return reshape(matmul2d(reshape(a, [rows, a.shape.at(-1)!]), b), [...a.shape.slice(0, -1), b.shape[1]]);
  }
  const batch = broadcastShapes('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2));
  const { c } = apply(matmulOp, { a: withTwoBatches(a, batch), b: withTwoBatches(b, batch) }, {});
  return reshape(c, [...batch, ...c.shape.slice(2)]);
});
