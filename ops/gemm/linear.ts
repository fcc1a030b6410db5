import { elements, type Spec } from '../../engine/backend.ts';
import { apply } from '../../engine/apply.ts';
import { expectDType, FLOATS, isBlock, WEIGHTS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import { gradEnabled } from '../../engine/tape.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { show } from '../common/shapes.ts';
import { cast } from '../elementwise/cast.ts';
import { add } from '../elementwise/binary.ts';
import { type Activation, activationOnWasm } from '../elementwise/activation.ts';
import { binaryOnWasm } from '../elementwise/wasm.ts';
import { reshape } from '../movement/reshape.ts';
import { sum } from '../reduce/reduce.ts';
import { matmul2d } from './matmul.ts';
import { plainProduct, type Product, productOnHost, productOnWasm } from './product.ts';
import { productOnGpu } from './variants.ts';

const rowsOf = ({ shape }: Spec): number => elements(shape.slice(0, -1));

interface LinearAttrs {
  /** Of the elementwise function that is applied; only where no gradient is wanted. */
  readonly activation?: string | undefined;
}

/** (rows, in) · (out, in)ᵀ */
function productOf(x: Spec, { shape: [out, inner] }: Spec, { activation }: LinearAttrs): Product {
  return { ...plainProduct(rowsOf(x), out, inner, false, true), activation };
}

const linearOp = /* @__PURE__ */ defineOp({
  name: 'linear',
  inputs: ['x', 'weight', 'bias?', 'addend?'],
  outputs: ['y'],
  asStored: { webgpu: ['x', 'weight', 'bias', 'addend', 'y'] },
  shape({ x, weight, bias, addend }, _: LinearAttrs) {
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
  reference({ x, weight, bias, addend }, { y }, attrs) {
    productOnHost(productOf(x, weight, attrs), x, weight, bias, y, addend);
  },
  webgpu({ x, weight, bias, addend }, { y }, attrs, device) {
    return productOnGpu(productOf(x, weight, attrs), { a: x, b: weight, bias, addend, c: y }, device);
  },
  wasm({ x, weight, bias, addend }, { y }, attrs, device) {
    const { activation } = attrs;
    productOnWasm(productOf(x, weight, attrs), { a: x, b: weight, bias, c: y }, device);
    if (activation && !activationOnWasm(device.k, activation, y)) return false;
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

/** What `linear` does beside its product and bias. */
export interface LinearOptions {
  /** Applied to x·Wᵀ + b: an elementwise function, such as `geluTanh`. */
  readonly activation?: Activation | undefined;
  /** (…, out) floats, of y's shape, added last: a residual stream, say. */
  readonly addend?: Tensor | undefined;
}

/**
 * y = activation(x·Wᵀ + b) + addend, summed in f32: on WebGPU one launch, but for an activation that is to have a
 * gradient.
 * @param x (…, in) floats
 * @param weight (out, in) stored in any format of `WEIGHTS`; int8 and int4 ones get no gradient
 * @param bias (out) floats
 * @returns (…, out) of x's dtype
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  { activation, addend }: LinearOptions = {},
): Tensor {
  const operands = { x, weight, ...(bias && { bias }) };
  if (activation && gradEnabled() && Object.values(operands).some((t) => t.requiresGrad)) {
    const y = activation(apply(linearOp, operands, {}).y);
    return addend ? add(y, addend) : y;
  }
  return apply(linearOp, { ...operands, ...(addend && { addend }) }, activation ? { activation: activation.torchName } : {}).y;
}
