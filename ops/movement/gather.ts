import { shader } from '../../engine/backends/webgpu/launch.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { apply1, defineOp, hostSums, spec } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { coordinates, MAX_RANK, series, unravel } from './coordinates.ts';
import { FLAT_MAIN, flatLaunch, sumInBlocks } from '../common/flat.ts';
import { normalizeDim, show, strides } from '../common/shapes.ts';

interface GatherAttrs {
  readonly dim: number;
}

const NAN_BITS = 0x7fc00000;

/** Strides of `shape` with `dim` taken out: where the other coordinates lead. */
function stridesBeside(shape: readonly number[], dim: number): number[] {
  return strides(shape).map((s, d) => (d === dim ? 0 : s));
}

function gatherShader(rank: number) {
  return shader(`gather.${rank}`, () => ({
    reads: { xs: 'u32', index: 'i32' },
    writes: { ys: 'u32' },
    params: { n: 'u32', length: 'u32', stride: 'u32', nan: 'u32', ...series('shape', rank), ...series('step', rank) },
    code: /* wgsl */ `
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  ${unravel('i', rank)}
  let base = ${Array.from({ length: rank }, (_, d) => `c${d} * params.step${d}`).join(' + ')};
  let k = u32(index[i]);
  var value = params.nan;
  if (k < params.length) { value = xs[base + k * params.stride]; }
  ys[i] = value;
}`,
  }));
}

function scatterShader(rank: number) {
  const dims = Array.from({ length: rank }, (_, d) => d);
  return shader(`gather.backward.${rank}`, () => ({
    reads: { index: 'i32', dys: 'f32' },
    writes: { dxs: 'f32' },
    params: {
      n: 'u32',
      count: 'u32',
      stride: 'u32',
      own: 'u32',
      length: 'u32',
      ...series('shape', rank),
      ...series('bound', rank),
      ...series('step', rank),
    },
    code: /* wgsl */ `
${FLAT_MAIN} {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.n) { return; }
  ${unravel('i', rank)}
  let base = ${dims.map((d) => `c${d} * params.step${d}`).join(' + ')};
  let k = i32((i / params.own) % params.length);
  var sum = 0.0;
  if (${dims.map((d) => `c${d} < params.bound${d}`).join(' && ')}) {
    ${sumInBlocks('let at = base + j * params.stride; if (index[at] == k) { part += dys[at]; }')}
  }
  dxs[i] = sum;
}`,
  }));
}

/** The op behind `gather`. */
export const gatherOp = /* @__PURE__ */ defineOp<GatherAttrs>({
  name: 'gather',
  shape([x, index], { dim }) {
    expectDType('gather', 'x', x.dtype, 'f32', 'i32', 'u32', 'bool');
    expectDType('gather', 'index', index.dtype, 'i32');
    const fits = x.shape.length > 0 && index.shape.every((n, d) => d === dim || n <= x.shape[d]);
    if (index.shape.length !== x.shape.length || !fits || x.shape.length > MAX_RANK) {
      throw new ShapeError(
        `gather: index has shape ${show(index.shape)}, expected that of x ${show(x.shape)} or less, ` +
          `but any size in dim ${dim}, and 1 to ${MAX_RANK} dimensions`,
      );
    }
    return [spec(index.shape, x.dtype)];
  },
  reference({ inputs: [x, index], outputs: [y], attrs: { dim } }) {
    const beside = stridesBeside(x.shape, dim);
    const step = strides(x.shape)[dim];
    const nothing = x.dtype === 'f32' ? NaN : 0;
    for (let i = 0; i < y.size; i++) {
      const base = coordinates(i, y.shape).reduce((sum, c, d) => sum + c * beside[d], 0);
      const k = index.data[i];
      y.data[i] = k >= 0 && k < x.shape[dim] ? x.data[base + k * step] : nothing;
    }
  },
  webgpu({ inputs: [x, index], outputs: [y], attrs: { dim } }) {
    const rank = x.shape.length;
    const params = [y.size, x.shape[dim], strides(x.shape)[dim], x.dtype === 'f32' ? NAN_BITS : 0];
    params.push(...y.shape, ...stridesBeside(x.shape, dim));
    return [flatLaunch(gatherShader(rank), [x, index, y], params, y.size)];
  },
  saves: { inputs: [1] },
  backward: ({ needs, grads, inputSpecs, input, attrs }) => [
    needs[0] ? apply1(gatherBackward, [input(1), grads[0]!], { dim: attrs.dim, shape: inputSpecs[0].shape }) : null,
    null,
  ],
});

/** dx[…, k, …] = Σ over j with index[…, j, …] = k of dy[…, j, …], in the order of j. */
const gatherBackward = /* @__PURE__ */ defineOp<GatherAttrs & { readonly shape: readonly number[] }>({
  name: 'gather_backward',
  shape: (_, { shape }) => [spec(shape)],
  reference({ inputs: [index, dy], outputs: [dx], attrs: { dim } }) {
    const beside = stridesBeside(dx.shape, dim);
    const step = strides(dx.shape)[dim];
    const [sums] = hostSums([dx]);
    for (let i = 0; i < dy.size; i++) {
      const base = coordinates(i, dy.shape).reduce((sum, c, d) => sum + c * beside[d], 0);
      const k = index.data[i];
      if (k >= 0 && k < dx.shape[dim]) sums.data[base + k * step] += dy.data[i];
    }
    dx.data.set(sums.data);
  },
  webgpu({ inputs: [index, dy], outputs: [dx], attrs: { dim } }) {
    const rank = dx.shape.length;
    const own = strides(dx.shape)[dim];
    const params = [dx.size, index.shape[dim], strides(index.shape)[dim], own, dx.shape[dim]];
    const bounds = index.shape.map((n, d) => (d === dim ? dx.shape[d] : n));
    params.push(...dx.shape, ...bounds, ...stridesBeside(index.shape, dim));
    return [flatLaunch(scatterShader(rank), [index, dy, dx], params, dx.size)];
  },
});

/**
 * y[i][j][k] = x[i][index[i][j][k]][k] for dim 1 (torch.gather). An index out of range gives NaN, and 0 for integers.
 * @param x of any 4-byte dtype, at most 6 dimensions; gradients for f32
 * @param index i32, of x's shape but free along `dim`, and not larger elsewhere
 */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  return apply1(gatherOp, [x, index], { dim: normalizeDim('gather', dim, x.shape.length) });
}
