import { elements, type Spec } from '../../engine/backend.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Gemm, gemmOnGpu, gemmOnHost, gemmOnWasm } from './gemm.ts';
import { inFloat32 } from '../elementwise/half.ts';
import { sumTo } from '../reduce/reduce.ts';
import { reshape } from '../movement/reshape.ts';
import { broadcastShapes, show } from '../common/shapes.ts';
import { expand } from '../movement/view.ts';

interface Transposes {
  readonly transA?: boolean;
  readonly transB?: boolean;
}

/** The product of two 4-D operands (outer batch, inner batch, rows, columns). */
function product(a: Spec, b: Spec, { transA = false, transB = false }: Transposes): Gemm {
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

const matmulOp: Op<Transposes> = /* @__PURE__ */ defineOp<Transposes>({
  name: 'matmul',
  shape([a, b], attrs) {
    expectDType('matmul', 'a', a.dtype, 'f32');
    expectDType('matmul', 'b', b.dtype, 'f32');
    const { batch, M, N } = product(a, b, attrs);
    return [spec([...batch, M, N])];
  },
  reference({ inputs: [a, b], outputs: [c], attrs }) {
    gemmOnHost(product(a, b, attrs), a, b, undefined, c);
  },
  webgpu(call) {
    const { inputs: [a, b], outputs: [c], attrs } = call;
    return c.size === 0 ? [] : gemmOnGpu(call, product(a, b, attrs), { a, b, c });
  },
  wasm(call) {
    const { inputs: [a, b], outputs: [c], attrs } = call;
    if (c.size > 0) gemmOnWasm(call, product(a, b, attrs), a.ptr, b.ptr, 0, c.ptr);
    return true;
  },
  flops: ({ inputs: [a, b], attrs, outputs: [c] }) => 2 * c.size * product(a, b, attrs).K,
  saves: { inputs: [0, 1] },
  backward({ attrs: { transA = false, transB = false }, input, grads, needs, inputSpecs }) {
    const dc = grads[0]!;
    const [a, b] = [input(0), input(1)];
    const da = () =>
      transA
        ? apply1(matmulOp, [b, dc], { transA: transB, transB: true })
        : apply1(matmulOp, [dc, b], { transB: !transB });
    const db = () =>
      transB
        ? apply1(matmulOp, [dc, a], { transA: true, transB: transA })
        : apply1(matmulOp, [a, dc], { transA: !transA });
    return [
      needs[0] ? sumTo(da(), inputSpecs[0].shape) : null,
      needs[1] ? sumTo(db(), inputSpecs[1].shape) : null,
    ];
  },
});

/** Product of two matrices, either stored transposed. */
export function matmul2d(a: Tensor, b: Tensor, transposes: Transposes = {}): Tensor {
  const c = apply1(matmulOp, [reshape(a, [1, 1, ...a.shape]), reshape(b, [1, 1, ...b.shape])], transposes);
  return reshape(c, c.shape.slice(2));
}

/** An operand with its batch dimensions brought to two, repeated where two are not enough to broadcast them. */
function toFour(x: Tensor, batch: readonly number[]): Tensor {
  const matrix = x.shape.slice(-2);
  const own = [...new Array(batch.length - (x.shape.length - 2)).fill(1), ...x.shape.slice(0, -2)];
  if (batch.length <= 2) return reshape(x, [...new Array(2 - batch.length).fill(1), ...own, ...matrix]);
  if (elements(own) === 1) return reshape(x, [1, 1, ...matrix]);
  return reshape(expand(x, [...batch, ...matrix]), [1, elements(batch), ...matrix]);
}

/**
 * Matrix product as torch has it: (…, M, K) · (…, K, N) → (…, M, N) with the leading dimensions broadcast; a vector on
 * the left is a row, on the right a column, and that dimension is dropped again.
 */
export function matmul(a: Tensor, b: Tensor): Tensor {
  return inFloat32([a, b], ([a, b]) => broadcastProduct(a, b));
}

function broadcastProduct(a: Tensor, b: Tensor): Tensor {
  if (a.shape.length === 0 || b.shape.length === 0) {
    throw new ShapeError(`matmul: ${show(a.shape)} and ${show(b.shape)}: expected at least one dimension each`);
  }
  if (a.shape.length === 1) {
    const c = broadcastProduct(reshape(a, [1, a.size]), b);
    return reshape(c, c.shape.filter((_, i) => i !== c.shape.length - (b.shape.length === 1 ? 1 : 2)));
  }
  if (b.shape.length === 1) {
    const c = broadcastProduct(a, reshape(b, [b.size, 1]));
    return reshape(c, c.shape.slice(0, -1));
  }
  if (b.shape.length === 2) {
    const rows = elements(a.shape.slice(0, -1));
    return reshape(matmul2d(reshape(a, [rows, a.shape.at(-1)!]), b), [...a.shape.slice(0, -1), b.shape[1]]);
  }
  const batch = broadcastShapes('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2));
  const c = apply1(matmulOp, [toFour(a, batch), toFour(b, batch)], {});
  return reshape(c, [...batch, ...c.shape.slice(2)]);
}
