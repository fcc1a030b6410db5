import type { DType } from '../../engine/dtype.ts';
import { DTypeError } from '../../engine/errors.ts';
import { apply1, defineOp, type Op, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { Elementwise } from './elementwise.ts';
import { broadcastIndex, broadcastShapes } from '../common/shapes.ts';

function compareOp(name: string, operator: string, holds: (a: number, b: number) => boolean): Op {
  const kernels = new Map<DType, Elementwise>();
  return defineOp({
    name,
    shape([a, b]) {
      if (a.dtype !== b.dtype || a.dtype === 'f16' || a.dtype === 'bf16') {
        throw new DTypeError(`${name}: a is ${a.dtype} and b is ${b.dtype}, expected both f32 or one integer type`);
      }
      return [spec(broadcastShapes(name, a.shape, b.shape))];
    },
    reference({ inputs: [a, b], outputs: [y] }) {
      const ia = broadcastIndex(a.shape, y.shape);
      const ib = broadcastIndex(b.shape, y.shape);
      for (let i = 0; i < y.size; i++) y.data[i] = holds(a.data[ia[i]], b.data[ib[i]]) ? 1 : 0;
    },
    webgpu({ inputs, outputs }) {
      const { dtype } = inputs[0];
      let kernel = kernels.get(dtype);
      if (!kernel) kernels.set(dtype, (kernel = compareKernel(name, operator, dtype)));
      return [kernel.launch(inputs, outputs)];
    },
  });
}

function compareKernel(name: string, operator: string, dtype: DType): Elementwise {
  const type = dtype === 'bool' ? 'u32' : dtype;
  return new Elementwise({
    name: `compare.${name}.${dtype}`,
    reads: { a: type, b: type },
    writes: { y: 'f32' },
    values: { y: `select(0.0, 1.0, a ${operator} b)` },
  });
}

export const eqOp = /* @__PURE__ */ compareOp('eq', '==', (a, b) => a === b);
export const ltOp = /* @__PURE__ */ compareOp('lt', '<', (a, b) => a < b);
export const gtOp = /* @__PURE__ */ compareOp('gt', '>', (a, b) => a > b);

/** 1 where a = b, else 0: f32 or integers of one dtype, broadcasting → f32. No gradient. */
export function eq(a: Tensor, b: Tensor): Tensor {
  return apply1(eqOp, [a, b], {});
}

/** 1 where a < b, else 0: f32 or integers of one dtype, broadcasting → f32. No gradient. */
export function lt(a: Tensor, b: Tensor): Tensor {
  return apply1(ltOp, [a, b], {});
}

/** 1 where a > b, else 0: f32 or integers of one dtype, broadcasting → f32. No gradient. */
export function gt(a: Tensor, b: Tensor): Tensor {
  return apply1(gtOp, [a, b], {});
}
