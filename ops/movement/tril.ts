import { expectWhole } from '../../engine/arguments.ts';
import { FLAT_INDEX, grid1d, shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, defineOp, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { show } from '../common/shapes.ts';

interface Diagonal {
  readonly diagonal: number;
}

const WG = 256;

const trilOp = /* @__PURE__ */ defineOp<Diagonal>({
  name: 'tril',
  shape([x]) {
    expectDType('tril', 'x', x.dtype, 'f32');
    if (x.shape.length < 2) throw new ShapeError(`tril: x has shape ${show(x.shape)}, expected at least 2 dimensions`);
    return [spec(x.shape)];
  },
  reference({ inputs: [x], outputs: [y], attrs: { diagonal } }) {
    const [rows, columns] = x.shape.slice(-2);
    for (let i = 0; i < x.size; i++) {
      const row = Math.floor(i / columns) % rows;
      y.data[i] = (i % columns) - row <= diagonal ? x.data[i] : 0;
    }
  },
  webgpu({ inputs: [x], outputs: [y], attrs: { diagonal } }) {
    const [rows, columns] = x.shape.slice(-2);
    const kernel = shader('tril', () => ({
      reads: { xs: 'f32' },
      writes: { ys: 'f32' },
      params: { n: 'u32', rows: 'u32', columns: 'u32', diagonal: 'i32' },
      constants: { WG },
      code: /* wgsl */ `${FLAT_INDEX}
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  let row = i32((i / params.columns) % params.rows);
  let column = i32(i % params.columns);
  ys[i] = select(0.0, xs[i], column - row <= params.diagonal);
}`,
    }));
    return [{ shader: kernel, args: [x, y], params: [x.size, rows, columns, diagonal], grid: grid1d(x.size, WG) }];
  },
  backward: ({ attrs, grads }) => [tril(grads[0]!, attrs.diagonal)],
});

/**
 * The lower triangle of the last two dimensions, up to a diagonal; zero above.
 * @param diagonal a whole number: 0 is the main one, 1 the next above
 * @throws ArgumentError for a diagonal that is no whole number
 */
export function tril(x: Tensor, diagonal = 0): Tensor {
  expectWhole('tril', 'diagonal', diagonal, -(2 ** 31));
  return apply1(trilOp, [x], { diagonal });
}
