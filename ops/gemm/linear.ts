import { elements, type Spec } from '../../engine/backend.ts';
import { apply } from '../../engine/apply.ts';
import { expectDType, FLOATS, isBlock, WEIGHTS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { show } from '../common/shapes.ts';
import { cast } from '../elementwise/cast.ts';
import { reshape } from '../movement/reshape.ts';
import { sum } from '../reduce/reduce.ts';
import { matmul2d } from './matmul.ts';
import { plainProduct, type Product, productOnHost, productOnWasm } from './product.ts';
import { productOnGpu } from './variants.ts';

const rowsOf = ({ shape }: Spec): number => elements(shape.slice(0, -1));

/** (rows, in) · (out, in)ᵀ */
function productOf(x: Spec, { shape: [out, inner] }: Spec): Product {
  return plainProduct(rowsOf(x), out, inner, false, true);
}

const linearOp = /* @__PURE__ */ defineOp({
  name: 'linear',
  inputs: ['x', 'weight', 'bias?'],
  outputs: ['y'],
  asStored: { webgpu: ['x', 'weight', 'bias', 'y'] },
  shape({ x, weight, bias }) {
    expectDType('linear', 'x', x.dtype, ...FLOATS);
    expectDType('linear', 'weight', weight.dtype, ...WEIGHTS);
    if (bias) expectDType('linear', 'bias', bias.dtype, ...FLOATS);
    const [out, inner] = weight.shape;
    if (weight.shape.length !== 2 || x.shape.at(-1) !== inner) {
      const both = `x ${show(x.shape)} and weight ${show(weight.shape)}`;
      throw new ShapeError(`linear: ${both} do not fit: expected (…, in) and (out, in)`);
    }
    if (bias && (bias.shape.length !== 1 || bias.shape[0] !== out)) {
      throw new ShapeError(`linear: bias ${show(bias.shape)} does not fit weight ${show(weight.shape)}, expected [${out}]`);
    }
    return { y: spec([...x.shape.slice(0, -1), out], x.dtype) };
  },
  reference({ x, weight, bias }, { y }) {
    productOnHost(productOf(x, weight), x, weight, bias, y);
  },
  webgpu({ x, weight, bias }, { y }, _, device) {
    return productOnGpu(productOf(x, weight), { a: x, b: weight, bias, c: y }, device);
  },
  wasm({ x, weight, bias }, { y }, _, device) {
    productOnWasm(productOf(x, weight), { a: x, b: weight, bias, c: y }, device);
    return true;
  },
  saves: ['x', 'weight'],
  backward({ saved, specs: { x, weight, bias }, needs, grads }) {
    const rows = rowsOf(x);
    const [out, inner] = weight.shape;
    const dy = reshape(grads.y!, [rows, out]);
    return {
      x: needs.x ? reshape(matmul2d(dy, saved.weight, { dtype: x.dtype }), x.shape) : null,
      weight:
        needs.weight && !isBlock(weight.dtype)
          ? matmul2d(dy, reshape(saved.x, [rows, inner]), { transA: true, dtype: weight.dtype })
          : null,
      bias: needs.bias ? sum(cast(dy, bias!.dtype), { dim: 0 }) : null,
    };
  },
});

/**
 * y = x·Wᵀ + b, summed in f32.
 * @param x (…, in) floats
 * @param weight (out, in) stored in any format of `WEIGHTS`; int8 and int4 ones get no gradient
 * @param bias (out) floats
 * @returns (…, out) of x's dtype
 */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  return apply(linearOp, { x, weight, ...(bias && { bias }) }, {}).y;
}
