import { apply } from '../../engine/apply.ts';
import { expectFinite } from '../../engine/arguments.ts';
import { at } from '../../engine/backends/wasm/planner.ts';
import { expectDType, FLOATS } from '../../engine/dtype.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { expectAlike } from '../common/shapes.ts';
import { launchFold, SQUARES } from '../reduce/fold.ts';

/** Elements one workgroup sums at the least, and workgroups for one gradient at most. */
const PER_GROUP = 4096;
const MAX_GROUPS = 512;

interface GradNormAttrs {
  readonly maxNorm: number;
  /** How many of the tensors are gradients; the others are their parameters' counts of updates, where any are given. */
  readonly gradients: number;
}

const gradNormOp = /* @__PURE__ */ defineOp({
  name: 'grad_norm',
  inputs: ['loss?', 'tensors*'],
  outputs: ['stats', 'before?'],
  shape({ loss, tensors }, { maxNorm, gradients }: GradNormAttrs) {
    expectFinite('gradNorm', 'maxNorm', maxNorm, 0);
    if (loss) expectAlike('gradNorm', 'the loss', loss, spec(loss.shape.map(() => 1)));
    tensors.forEach((tensor, i) => {
      if (i < gradients) return expectDType('gradNorm', 'a gradient', tensor.dtype, ...FLOATS);
      expectAlike('gradNorm', 'a count', tensor, spec([]));
    });
    const counts = tensors.length - gradients;
    return { stats: spec([3]), before: counts > 0 ? spec([counts]) : undefined };
  },
  reference({ loss, tensors }, { stats, before }, { maxNorm, gradients }) {
    let sum = 0;
    for (const { data } of tensors.slice(0, gradients)) for (const v of data) sum += v * v;
    // As it is stored: a norm may be beyond what f32 holds.
    stats.data[0] = Math.sqrt(sum);
    const [norm] = stats.data;
    const scale = maxNorm > 0 ? Math.min(1, maxNorm / (norm + 1e-6)) : 1;
    const finite = Number.isFinite(norm) && (!loss || Number.isFinite(loss.data[0]));
    stats.data.set([scale, finite ? 1 : 0], 1);
    before?.data.set(tensors.slice(gradients).map(({ data }) => data[0]));
  },
  webgpu({ loss, tensors }, { stats, before }, { maxNorm, gradients }, device) {
    const groups = tensors.slice(0, gradients).map(({ size }) => Math.min(MAX_GROUPS, Math.ceil(size / PER_GROUP) || 1));
    const norms = device.scratch([groups.reduce((a, b) => a + b)]);
    const offsets = groups.map((_, i) => groups.slice(0, i).reduce((a, b) => a + b, 0));
    const fold = { type: 'f32', load: 'load_x(i)', ...SQUARES };
    const parts = groups.map((splits, i) => {
      return launchFold(device, { outer: 1, len: tensors[i].size, inner: 1, splits }, {
        key: 'grad_norm.parts',
        reads: { x: tensors[i], count: before && tensors[gradients + i] },
        writes: { norms, before },
        params: { offset: offsets[i], index: i },
        fold,
        body: /* wgsl */ `
  if (local > 0u) { return; }
  store_norms(params.offset + at.part, norm_of(total));
  if (at.part == 0u) { store_before(params.index, load_count(0u)); }`,
      });
    });
    const whole = launchFold(device, { outer: 1, len: norms.size, inner: 1 }, {
      key: 'grad_norm.stats',
      reads: { x: norms, loss },
      writes: { stats },
      params: { max_norm: ['f32', maxNorm] },
      fold,
      body: /* wgsl */ `
  if (local > 0u) { return; }
  let norm = norm_of(total);
  store_stats(0u, norm);
  store_stats(1u, select(1.0, min(1.0, params.max_norm / (norm + 1e-6)), params.max_norm > 0.0));
  store_stats(2u, select(0.0, 1.0, is_finite(norm) && is_finite(load_loss(0u))));`,
    });
    return [...parts, whole];
  },
  wasm({ loss, tensors }, { stats, before }, { maxNorm, gradients }, { k, scratch }) {
    const norms = scratch(4 * gradients);
    for (let i = 0; i < gradients; i++) {
      k.l2_distance(tensors[i], undefined, at(norms, 4 * i), tensors[i].size);
      const one = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0] as const;
      if (before) k.strided_copy(tensors[gradients + i], at(before, 4 * i), 4, ...one, undefined, 0, 0);
    }
    k.clip_scale(norms, loss, stats, gradients, maxNorm);
    return true;
  },
});

/**
 * Global norm of all gradients and what follows from it, left on the device. `stats` is f32 [norm, min(1, maxNorm/(norm
 * + 1e-6)), 1 if the norm, and the loss, is finite else 0]. Squares neither overflow nor vanish: of finite gradients that
 * are not subnormal the norm is infinite only where it is itself beyond f32's range (3.4e38). Two stages in a fixed
 * order, so the same gradients give the same bits. `before` is what `adamwStep` needs of the counts: f32 (parameters), a
 * copy of them, which kernels read while the step changes these.
 * @param maxNorm 0 does not clip
 * @param loss f32 of one element, which must be finite too
 * @param counts f32 [], one a gradient: the updates that its parameter has had
 */
export function gradNorm(
  grads: readonly Tensor[],
  maxNorm: number,
  { loss, counts = [] }: { readonly loss?: Tensor; readonly counts?: readonly Tensor[] } = {},
): { readonly stats: Tensor; readonly before?: Tensor } {
  const gradients = grads.length;
  if (gradients === 0) throw new ArgumentError('gradNorm: no gradients were given; nothing is trained');
  if (counts.length > 0 && counts.length !== gradients) {
    throw new ArgumentError(`gradNorm: ${counts.length} counts for ${gradients} gradients, expected one for each`);
  }
  return apply(gradNormOp, { loss, tensors: [...grads, ...counts] }, { maxNorm, gradients });
}
