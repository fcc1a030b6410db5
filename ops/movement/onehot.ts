import { expectWhole } from '../../engine/arguments.ts';
import { shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { FLAT_MAIN, flatLaunch } from '../common/flat.ts';

/** The op behind `oneHot`. */
export const oneHotOp = /* @__PURE__ */ defineOp<{ readonly classes: number }>({
  name: 'one_hot',
  shape([ids], { classes }) {
    expectDType('one_hot', 'ids', ids.dtype, 'i32');
    return [spec([...ids.shape, classes])];
  },
  reference({ inputs: [ids], outputs: [y], attrs: { classes } }) {
    for (let i = 0; i < y.size; i++) y.data[i] = ids.data[Math.floor(i / classes)] === i % classes ? 1 : 0;
  },
  webgpu({ inputs: [ids], outputs: [y], attrs: { classes } }) {
    const kernel = shader('one_hot', () => ({
      reads: { ids: 'i32' },
      writes: { ys: 'f32' },
      params: { n: 'u32', classes: 'u32' },
      code: /* wgsl */ `
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  ys[i] = select(0.0, 1.0, u32(ids[i / params.classes]) == i % params.classes);
}`,
    }));
    return [flatLaunch(kernel, [ids, y], [y.size, classes], y.size)];
  },
});

/** 1 at the place each id names and 0 elsewhere: i32 (…) → f32 (…, classes). An id out of range gives zeros. */
export function oneHot(ids: Tensor, classes: number): Tensor {
  expectWhole('one_hot', 'classes', classes, 1);
  return apply1(oneHotOp, [ids], { classes });
}
