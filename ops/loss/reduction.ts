import type { GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import type { Slot } from '../../engine/plan.ts';
import { launchFold, sumOver } from '../reduce/fold.ts';

/** How losses of rows, which hold their weights, become one: f·Σ loss, where f = factor, over Σ weights if `byWeight`. */
export interface Reduction {
  readonly factor: number;
  readonly byWeight: boolean;
}

/** The one loss, and f. */
export function reduceOnHost(total: number, weight: number, { factor, byWeight }: Reduction): [number, number] {
  const f = byWeight ? (weight === 0 ? 0 : factor / weight) : factor;
  return [total * f, f];
}

/** Rows of losses, and perhaps their weights, to loss [] and factor [], in a fixed order. */
export function launchReduction(
  device: GpuPlanner,
  { factor, byWeight }: Reduction,
  reads: { readonly losses: Slot; readonly weights?: Slot },
  writes: { readonly loss: Slot; readonly factor: Slot },
): Launch {
  const load = `vec2(load_losses(i), ${reads.weights ? 'load_weights(i)' : '1.0'})`;
  return launchFold(device, { outer: 1, len: reads.losses.size, inner: 1 }, {
    key: 'reduce_losses',
    reads,
    writes,
    params: { factor: ['f32', factor], by_weight: Number(byWeight) },
    fold: sumOver('vec2<f32>', load),
    body: /* wgsl */ `
  if (at.line > 0u || at.lane > 0u) { return; }
  var f = params.factor;
  if (params.by_weight == 1u) { f = select(f / total.y, 0.0, total.y == 0.0); }
  store_loss(0u, total.x * f);
  store_factor(0u, f);`,
  });
}
