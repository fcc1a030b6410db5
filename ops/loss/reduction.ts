import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchKernel } from '../common/launch-kernel.ts';
import { squaresWgsl } from '../common/squares.ts';

/** How losses of rows become one: f = factor, over Σ weights if `byWeight`. */
export interface Reduction {
  readonly factor: number;
  readonly byWeight: boolean;
  /** f·Σ w·loss; f·Σ loss, where losses hold their weights already; or √(f·Σ w·loss²), of roots of losses. */
  readonly sum: 'weighted' | 'plain' | 'root';
}

/** The one loss, and its derivative by what is summed: of Σ w·loss, Σ loss or Σ w·loss², and Σ weights. */
export function reduceOnHost(total: number, weight: number, { factor, byWeight, sum }: Reduction): [number, number] {
  const f = byWeight ? (weight === 0 ? 0 : factor / weight) : factor;
  if (sum !== 'root') return [total * f, f];
  const loss = Math.sqrt(total * f);
  return [loss, loss === 0 ? 0 : f / (2 * loss)];
}

/** WGSL: what a row adds to a sum and where in that weights are, the loss of all and its derivative. */
const SUMS = {
  weighted: { type: 'vec2<f32>', weight: 'y', term: 'vec2<f32>(w * loss, w)', loss: 'sum.x * f', slope: 'f' },
  plain: { type: 'vec2<f32>', weight: 'y', term: 'vec2<f32>(loss, w)', loss: 'sum.x * f', slope: 'f' },
  root: {
    type: 'vec4<f32>',
    weight: 'w',
    term: 'vec4<f32>(squares(sqrt(w) * loss), w)',
    loss: 'norm_of(sum.xyz) * sqrt(f)',
    slope: 'select(0.5 * f / loss, 0.0, loss == 0.0)',
  },
} as const satisfies Record<Reduction['sum'], object>;

/** Rows of losses, and perhaps their weights, to loss [] and factor [], its derivative, in a fixed order. */
export function launchReduction(
  reduction: Reduction,
  reads: { readonly losses: Slot; readonly weights?: Slot },
  writes: { readonly loss: Slot; readonly factor: Slot },
  device: GpuPlanner,
): Launch {
  const { factor, byWeight, sum } = reduction;
  const { type, weight, term, loss, slope } = SUMS[sum];
  // Of plain sums a row without weight may have a loss, as label smoothing gives it one.
  const none = sum === 'plain' ? '' : ' || w == 0.0';
  return launchKernel(
    {
      key: `reduce_losses.${sum}`,
      reads,
      writes,
      params: { rows: ['u32', reads.losses.size], factor: ['f32', factor], by_weight: ['u32', Number(byWeight)] },
      code: () => /* wgsl */ `${squaresWgsl}
var<workgroup> tree: array<${type}, 256>;
fn term(r: u32) -> ${type} {
  let at = min(r, params.rows - 1u);
  let loss = load_losses(at);
  let w = ${reads.weights ? 'load_weights(at)' : '1.0'};
  return select(${term}, ${type}(), r >= params.rows${none});
}
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
  // 64 at a time, so that long sums lose no digits, and of these four, so that loads overlap.
  var own = ${type}();
  for (var first = local; first < params.rows; first += 16384u) {
    var part = ${type}();
    for (var r = first; r < min(first + 16384u, params.rows); r += 1024u) {
      part += (term(r) + term(r + 256u)) + (term(r + 512u) + term(r + 768u));
    }
    own += part;
  }
  tree[local] = own;
  workgroupBarrier();
  for (var step = 128u; step > 0u; step /= 2u) {
    if (local < step) { tree[local] += tree[local + step]; }
    workgroupBarrier();
  }
  if (local > 0u) { return; }
  let sum = tree[0];
  var f = params.factor;
  if (params.by_weight == 1u) { f = select(f / sum.${weight}, 0.0, sum.${weight} == 0.0); }
  let loss = ${loss};
  store_loss(0u, loss);
  store_factor(0u, ${slope});
}`,
      grid: [1, 1, 1],
    },
    device,
  );
}
