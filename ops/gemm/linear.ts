import { elements, type Spec } from '../../engine/backend.ts';
import { apply } from '../../engine/apply.ts';
import { expectDType, FLOATS, isBlock, WEIGHTS } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import type { WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { defineOp, type HostArg, spec } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { gradEnabled } from '../../engine/tape.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { show } from '../common/shapes.ts';
import { cast } from '../elementwise/cast.ts';
import { add } from '../elementwise/binary.ts';
import { type Activation, activationOnWasm, nameOf } from '../elementwise/activation.ts';
import { binaryOnWasm } from '../elementwise/wasm.ts';
import { reshape } from '../movement/reshape.ts';
import { sum } from '../reduce/sum.ts';
import { matmul2d } from './matmul.ts';
import { plainProduct, type Product, productFlops, productOnHost, productOnWasm, type ProductSlots } from './product.ts';
import { productOnGpu } from './variants.ts';

export const rowsOf = ({ shape }: Spec): number => elements(shape.slice(0, -1));

interface LinearAttrs {
  /** Of the elementwise function that is applied; only where no gradient is wanted. */
  readonly activation?: string | undefined;
}

/** Operands of x·Wᵀ + b + addend. */
export interface LinearOperands<T> {
  readonly x: T;
  readonly weight: T;
  readonly bias?: T | undefined;
  readonly addend?: T | undefined;
}

/** (rows, in) · (out, in)ᵀ */
export function linearProduct({ x, weight }: LinearOperands<Spec>, activation?: string): Product {
  const [out, inner] = weight.shape;
  return { ...plainProduct(rowsOf(x), out, inner, false, true), activation };
}

/** The result of a linear layer. @throws ShapeError or DTypeError naming the operand */
export function linearSpec(op: string, { x, weight, bias, addend }: LinearOperands<Spec>): Spec {
  expectDType(op, 'x', x.dtype, ...FLOATS);
  expectDType(op, 'weight', weight.dtype, ...WEIGHTS);
  if (bias) expectDType(op, 'bias', bias.dtype, ...FLOATS);
  if (addend) expectDType(op, 'addend', addend.dtype, ...FLOATS);
  const [out, inner] = weight.shape;
  if (weight.shape.length !== 2 || x.shape.at(-1) !== inner) {
    const both = `x ${show(x.shape)} and weight ${show(weight.shape)}`;
    throw new ShapeError(`${op}: ${both} do not fit: expected (…, in) and (out, in)`);
  }
  if (bias && (bias.shape.length !== 1 || bias.shape[0] !== out)) {
    throw new ShapeError(`${op}: bias ${show(bias.shape)} does not fit weight ${show(weight.shape)}, expected [${out}]`);
  }
  const y = spec([...x.shape.slice(0, -1), out], x.dtype);
  if (addend && show(addend.shape) !== show(y.shape)) {
    throw new ShapeError(`${op}: addend ${show(addend.shape)} does not fit the product, expected ${show(y.shape)}`);
  }
  return y;
}

/** The layer in loops. */
export function linearOnHost(operands: LinearOperands<HostArg>, y: HostArg, activation?: string): void {
  const { x, weight, bias, addend } = operands;
  productOnHost(linearProduct(operands, activation), x, weight, bias, y, addend);
}

/** Notes the layer's calls of C kernels; false where there is none of the activation. */
export function linearOnWasm(operands: LinearOperands<Slot>, y: Slot, device: WasmPlanner, activation?: string): boolean {
  const { x, weight, bias, addend } = operands;
  productOnWasm(linearProduct(operands), { a: x, b: weight, bias, c: y }, device);
  if (activation && !activationOnWasm(device.k, activation, y)) return false;
  return !addend || binaryOnWasm(device.k, 'add', y, addend, y);
}

/** The layer's operands as those of its product. */
export function linearSlots({ x, weight, bias, addend }: LinearOperands<Slot>, y: Slot): ProductSlots {
  return { a: x, b: weight, ...(bias && { bias }), ...(addend && { addend }), c: y };
}

const linearOp = /* @__PURE__ */ defineOp({
  name: 'linear',
  inputs: ['x', 'weight', 'bias?', 'addend?'],
  outputs: ['y'],
  asStored: { webgpu: ['y'], wasm: ['x', 'weight', 'bias'] },
  shape: (operands, _: LinearAttrs) => ({ y: linearSpec('linear', operands) }),
  flops: (operands) => productFlops(linearProduct(operands)),
  reference: (operands, { y }, { activation }) => linearOnHost(operands, y, activation),
  webgpu: (operands, { y }, { activation }, device) =>
    productOnGpu(linearProduct(operands, activation), linearSlots(operands, y), device),
  wasm: (operands, { y }, { activation }, device) => linearOnWasm(operands, y, device, activation),
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
  const operands = { x, weight, bias: bias ?? undefined, addend };
  const name = nameOf('linear', activation);
  if (activation && gradEnabled() && [x, weight, bias].some((t) => t?.requiresGrad)) {
    return scope(() => {
      const y = activation(apply(linearOp, { ...operands, addend: undefined }, {}).y);
      return addend ? add(y, addend) : y;
    });
  }
  return apply(linearOp, operands, name ? { activation: name } : {}).y;
}
