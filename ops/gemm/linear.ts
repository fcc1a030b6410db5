import { elements, type Spec } from '../../engine/backend.ts';
import { apply } from '../../engine/apply.ts';
import { expectDType, FLOATS, isBlock, WEIGHTS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { show } from '../common/shapes.ts';
import { cast } from '../elementwise/cast.ts';
import { binaryOnWasm } from '../elementwise/wasm.ts';
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
  inputs: ['x', 'weight', 'bias?', 'addend?'],
  outputs: ['y'],
  asStored: { webgpu: ['x', 'weight', 'bias', 'addend', 'y'] },
  shape({ x, weight, bias, addend }) {
    expectDType('linear', 'x', x.dtype, ...FLOATS);
    expectDType('linear', 'weight', weight.dtype, ...WEIGHTS);
    if (bias) expectDType('linear', 'bias', bias.dtype, ...FLOATS);
    if (addend) expectDType('linear', 'addend', addend.dtype, ...FLOATS);
    const [out, inner] = weight.shape;
    if (weight.shape.length !== 2 || x.shape.at(-1) !== inner) {
      const both = `x ${show(x.shape)} and weight ${show(weight.shape)}`;
      throw new ShapeError(`linear: ${both} do not fit: expected (…, in) and (out, in)`);
    }
    if (bias && (bias.shape.length !== 1 || bias.shape[0] !== out)) {
      throw new ShapeError(`linear: bias ${show(bias.shape)} does not fit weight ${show(weight.shape)}, expected [${out}]`);
    }
    const y = spec([...x.shape.slice(0, -1), out], x.dtype);
    if (addend && show(addend.shape) !== show(y.shape)) {
      throw new ShapeError(`linear: addend ${show(addend.shape)} does not fit the product, expected ${show(y.shape)}`);
    }
    return { y };
  },
  reference({ x, weight, bias, addend }, { y }) {
    productOnHost(productOf(x, weight), x, weight, bias, y, addend);
  },
  webgpu({ x, weight, bias, addend }, { y }, _, device) {
    return productOnGpu(productOf(x, weight), { a: x, b: weight, bias, addend, c: y }, device);
  },
  wasm({ x, weight, bias, addend }, { y }, _, device) {
    productOnWasm(productOf(x, weight), { a: x, b: weight, bias, c: y }, device);
    return !addend || binaryOnWasm(device.k, 'add', y, addend, y);
  },
  saves: ['x', 'weight'],
  backward({ saved, specs: { x, weight, bias, addend }, needs, grads }) {
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
      addend: needs.addend ? cast(grads.y!, addend!.dtype) : null,
    };
  },
});

/**
 * y = x·Wᵀ + b + addend, summed in f32: with an addend, such as a residual stream, one launch instead of two on WebGPU.
 * @param x (…, in) floats
 * @param weight (out, in) stored in any format of `WEIGHTS`; int8 and int4 ones get no gradient
 * @param bias (out) floats
 * @param addend (…, out) floats, of y's shape
 * @returns (…, out) of x's dtype
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  { addend }: { readonly addend?: Tensor | undefined } = {},
): Tensor {
  return apply(linearOp, { x, weight, ...(bias && { bias }), ...(addend && { addend }) }, {}).y;
}
