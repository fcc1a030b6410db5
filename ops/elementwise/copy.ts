import { expectNumber } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply, apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { asWords, Elementwise } from './elementwise.ts';
import { expectAlike } from '../common/shapes.ts';

const copyKernel = /* @__PURE__ */ new Elementwise({
  name: 'copy',
  reads: { x: 'u32' },
  writes: { y: 'u32' },
  values: { y: 'x' },
});

export const cloneOp = /* @__PURE__ */ defineOp({
  name: 'clone',
  shape: ([x]) => [spec(x.shape, x.dtype)],
  reference({ inputs: [x], outputs: [y] }) {
    y.data.set(x.data);
  },
  webgpu: ({ inputs: [x], outputs: [y] }) => [copyKernel.launch([asWords(x)], [asWords(y)])],
  backward: ({ grads }) => [grads[0]],
});

/** The same elements in a buffer of their own: any dtype and shape. */
export function clone(x: Tensor): Tensor {
  return apply1(cloneOp, [x], {});
}

export const copyOp = /* @__PURE__ */ defineOp({
  name: 'copy_',
  shape([dst, src]) {
    expectAlike('copy_', 'src', src, dst);
    return [];
  },
  reference({ inputs: [dst, src] }) {
    dst.data.set(src.data);
  },
  webgpu: ({ inputs: [dst, src] }) => [copyKernel.launch([asWords(src)], [asWords(dst)])],
  mutates: [0],
});

/** Overwrites `dst` with `src`, of the same shape and dtype. Not recorded. */
export function copy_(dst: Tensor, src: Tensor): void {
  if (dst.storage !== src.storage) apply(copyOp, [dst, src], {});
}

const addKernel = /* @__PURE__ */ new Elementwise({
  name: 'add_into',
  reads: { src: 'f32' },
  writes: { dst: 'f32' },
  values: { dst: 'dst + params.scale * src' },
  params: { scale: 'f32' },
  update: true,
});

export const addIntoOp = /* @__PURE__ */ defineOp<{ scale: number }>({
  name: 'add_into',
  shape([dst, src], { scale }) {
    expectNumber('add_into', 'scale', scale);
    expectDType('add_into', 'dst', dst.dtype, 'f32');
    expectAlike('add_into', 'src', src, dst);
    return [];
  },
  reference({ inputs: [dst, src], attrs: { scale } }) {
    for (let i = 0; i < dst.size; i++) dst.data[i] += scale * src.data[i];
  },
  webgpu: ({ inputs: [dst, src], attrs }) => [addKernel.launch([src], [dst], [attrs.scale])],
  wasm({ inputs: [dst, src], attrs: { scale }, k }) {
    k.scale_add(src.ptr, dst.ptr, dst.size, scale, 1);
    return true;
  },
  mutates: [0],
});

/**
 * dst ← dst + scale·src in place, both f32 of one shape. Not recorded.
 * @throws ArgumentError when both are the same storage
 */
export function addInto(dst: Tensor, src: Tensor, scale = 1): void {
  apply(addIntoOp, [dst, src], { scale });
}
