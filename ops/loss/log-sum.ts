import type { Spec } from '../../engine/backend.ts';
import { ShapeError } from '../../engine/errors.ts';
import { rowFold } from '../common/rows.ts';
import { show } from '../common/shapes.ts';

/** @throws ShapeError unless x is (…, V) with V ≥ 1: no distribution is over nothing */
export function expectClasses(op: string, name: string, { shape }: Spec): void {
  if (shape.length > 0 && shape[shape.length - 1] > 0) return;
  throw new ShapeError(`${op}: ${name} has shape ${show(shape)}, expected (…, V) with at least one class`);
}

/**
 * WGSL for row kernels: `max_and_log_sum` joins the pairs (maximum, Σ exp((x − maximum)·k)) of two series over a row's
 * lanes, each as `no_exp` and `join_exp` make them, and gives (maximum, log Σ) of both. `k` is WGSL too.
 */
export const logSums = (k: string): string => /* wgsl */ `
fn with_exp(sum: vec2<f32>, x: f32) -> vec2<f32> { return join_exp(sum, vec2<f32>(x, 1.0), ${k}); }
${rowFold('row_exps', 'vec4<f32>', `vec4<f32>(join_exp(a.xy, b.xy, ${k}), join_exp(a.zw, b.zw, ${k}))`)}
fn max_and_log_sum(first: vec2<f32>, second: vec2<f32>, local: u32) -> vec4<f32> {
  let all = row_exps(vec4<f32>(first, second), local);
  return vec4<f32>(all.x, log(all.y), all.z, log(all.w));
}
`;

/**
 * The maximum of one row and log Σ exp((x − maximum)·scale): apart, because their sum would round the logarithm away
 * where the maximum is large.
 */
export function maxAndLogSum(row: ArrayLike<number> & Iterable<number>, scale = 1): [number, number] {
  let max = -Infinity;
  for (const x of row) max = Math.max(max, x);
  let sum = 0;
  for (const x of row) sum += Math.exp((x - max) * scale);
  return [max, Math.log(sum)];
}
