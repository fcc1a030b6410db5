import type { Spec } from '../../engine/backend.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Gemm, gemmOnGpu, gemmOnHost, gemmOnWasm, plainGemm } from './gemm.ts';
import { inFloat32 } from '../elementwise/half.ts';
import { matmul2d } from './matmul.ts';
import { sum } from '../reduce/reduce.ts';
import { reshape } from '../movement/reshape.ts';
import { show } from '../common/shapes.ts';

type None = Record<string, never>;

function rowsOf(x: Spec): number {
  let rows = 1;
  for (let i = 0; i < x.shape.length - 1; i++) rows *= x.shape[i];
  return rows;
}

/** (rows, in) · (out, in)ᵀ */
function product(x: Spec, w: Spec): Gemm {
  const [out, inner] = w.shape;
  return plainGemm(rowsOf(x), out, inner, false, true);
}

export const linearOp = /* @__PURE__ */ defineOp<None>({
  name: 'linear',
  shape([x, w, b]) {
    expectDType('linear', 'x', x.dtype, 'f32');
    expectDType('linear', 'w', w.dtype, 'f32');
    if (b) expectDType('linear', 'b', b.dtype, 'f32');
    if (w.shape.length !== 2 || x.shape.at(-1) !== w.shape[1]) {
      throw new ShapeError(`linear: x ${show(x.shape)} and weight ${show(w.shape)} do not fit: expected (…, in) and (out, in)`);
    }
    if (b && (b.shape.length !== 1 || b.shape[0] !== w.shape[0])) {
      throw new ShapeError(`linear: bias ${show(b.shape)} does not fit weight ${show(w.shape)}, expected [${w.shape[0]}]`);
    }
    return [spec([...x.shape.slice(0, -1), w.shape[0]])];
  },
  reference({ inputs: [x, w, b], outputs: [y] }) {
    gemmOnHost(product(x, w), x, w, b, y);
  },
  webgpu(call) {
    const { inputs: [x, w, b], outputs: [y] } = call;
    return y.size === 0 ? [] : gemmOnGpu(call, product(x, w), { a: x, b: w, bias: b, c: y });
  },
  wasm(call) {
    const { inputs: [x, w, b], outputs: [y] } = call;
    if (y.size > 0) gemmOnWasm(call, product(x, w), x.ptr, w.ptr, b?.ptr ?? 0, y.ptr);
    return true;
  },
  flops: ({ inputs: [x, w] }) => 2 * x.size * w.shape[0],
  saves: { inputs: [0, 1] },
  backward({ input, grads, needs, inputSpecs: [x, w, b] }) {
    const rows = rowsOf(x);
    const dy = reshape(grads[0]!, [rows, w.shape[0]]);
    return [
      needs[0] ? reshape(matmul2d(dy, input(1)), x.shape) : null,
      needs[1] ? matmul2d(dy, reshape(input(0), [rows, w.shape[1]]), { transA: true }) : null,
      ...(b ? [needs[2] ? sum(dy, { dim: 0 }) : null] : []),
    ];
  },
});

/** y = x·Wᵀ + b. x (…, in), weight (out, in), bias (out) → (…, out): floats of any width. */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  return inFloat32(bias ? [x, weight, bias] : [x, weight], (inputs) => apply1(linearOp, inputs, {}));
}
