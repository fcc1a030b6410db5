import { apply } from '../../engine/apply.ts';
import { type DType, encoder, expectElements, formatNumber, isFloat } from '../../engine/dtype.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { elementwise, type Expression, holds } from './kernel.ts';

/** From one of the types that kernels compute on to another. */
const CONVERSIONS: Readonly<Record<string, string>> = {
  'f32 i32': 'to_i32(x)',
  'f32 u32': 'to_u32(x)',
  'i32 u32': 'u32(max(x, 0))',
  'u32 i32': 'i32(min(x, 0x7fffffffu))',
};

const SIXTEEN_BITS: readonly DType[] = ['f16', 'bf16'];

const castOp = /* @__PURE__ */ defineOp({
  name: 'cast',
  inputs: ['x'],
  outputs: ['y'],
  shape({ x }, { to }: { to: DType }) {
    expectElements('cast', 'y', to);
    return { y: spec(x.shape, to) };
  },
  reference({ x }, { y }) {
    const to = isFloat(y.dtype) ? Number : encoder(y.dtype);
    for (let i = 0; i < y.size; i++) y.data[i] = to(x.data[i]);
  },
  webgpu({ x }, { y }, _, device) {
    const value: Expression = ({ x, result }) =>
      y.dtype === 'bool' ? `select(0u, 1u, ${holds('x', x)})` : (CONVERSIONS[`${x} ${result}`] ?? `${result}(x)`);
    const name = y.dtype === 'bool' ? 'cast.bool' : 'cast';
    return [elementwise({ name, reads: { x }, result: y, value }, device)];
  },
  wasm({ x }, { y }, _, { k }) {
    if (y.dtype === 'f32' && isFloat(x.dtype)) k.widen(x, y, y.size, formatNumber(x.dtype));
    else if (x.dtype === 'f32' && SIXTEEN_BITS.includes(y.dtype)) k.narrow(x, y, y.size, formatNumber(y.dtype));
    else return false;
    return true;
  },
  asStored: { webgpu: ['y'], wasm: ['x', 'y'] },
  backward: ({ specs: { x, y }, grads }) => ({ x: isFloat(x.dtype) && isFloat(y.dtype) ? cast(grads.y!, x.dtype) : null }),
});

/**
 * x as another dtype: floats round to nearest even, integers truncate toward zero and stop at their bounds, bool is
 * "not 0". Differentiable between floats. Returns x itself where it has the dtype.
 */
export function cast(x: Tensor, dtype: DType): Tensor {
  return x.dtype === dtype ? x : apply(castOp, { x }, { to: dtype }).y;
}
