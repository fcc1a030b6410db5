import { apply } from '../../engine/apply.ts';
import { defineOp, spec } from '../../engine/op.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { gradientSpecs, type Wanting } from '../common/shapes.ts';
import { scanReference, scanBackwardReference } from './reference.ts';
import { checkSsd, INPUTS, scanFlops, type SsdAttrs, ssdSizes } from './shape.ts';
import { scanBackwardLaunches, scanLaunches } from './variants.ts';

/** What a scan reads; `T` is how values that each token has its own are given. */
export interface SsdInputTensors<T = Tensor> {
  /** (B, L, H, P) */
  readonly x: T;
  /** (B, L, H), before bias and softplus */
  readonly dt: T;
  /** (H) */
  readonly A_log: Tensor;
  /** (B, L, G, N), G a divisor of H: head h reads group ⌊h / (H/G)⌋ */
  readonly B: T;
  /** (B, L, G, N) */
  readonly C: T;
  /** (H) */
  readonly D: Tensor;
  /** (H) */
  readonly dt_bias: Tensor;
}

export interface SsdOptions {
  /** Default 256, as mamba_ssm. The result does not depend on it. */
  readonly chunkSize?: number;
  /** (B, H, P, N); default zeros. */
  readonly initialState?: Tensor | null;
}

const scan = /* @__PURE__ */ defineOp({
  name: 'ssd_scan',
  inputs: INPUTS,
  outputs: ['y', 'final'],
  shape(inputs, attrs: SsdAttrs) {
    const s = checkSsd(inputs, attrs);
    return { y: spec(inputs.x.shape, inputs.x.dtype), final: spec([s.batch, s.heads, s.p, s.n]) };
  },
  flops: (inputs) => scanFlops(inputs, 5),
  reference: (inputs, { y, final }) => scanReference(inputs, y, final),
  webgpu: scanLaunches,
  wasm({ x, dt, A_log, B, C, D, dt_bias, initialState }, { y, final }, _, { k, sizes, scratch }) {
    const s = ssdSizes({ x, B });
    const room = scratch(sizes.ssd_scan_scratch(s.length));
    const extents = [s.batch, s.length, s.heads, s.p, s.groups, s.n] as const;
    k.ssd_scan(x, dt, A_log, B, C, D, dt_bias, initialState, y, final, ...extents, room);
    return true;
  },
  saves: ['x', 'dt', 'A_log', 'B', 'C', 'D', 'dt_bias', 'initialState'],
  backward({ attrs, saved, needs, grads: { y, final } }) {
    const given = { ...saved, dy: y ?? undefined, dfinal: final ?? undefined };
    const formed = apply(scanBackward, given, { ...attrs, wants: needs });
    const { dx, ddt, dA_log, dB, dC, dD, ddt_bias, dinitialState } = formed;
    return { x: dx, dt: ddt, A_log: dA_log, B: dB, C: dC, D: dD, dt_bias: ddt_bias, initialState: dinitialState };
  },
});

const scanBackward = /* @__PURE__ */ defineOp({
  name: 'ssd_scan_backward',
  // Spelt out: a bundler takes a spread for something that happens, and would keep the op.
  inputs: ['x', 'dt', 'A_log', 'B', 'C', 'D', 'dt_bias', 'initialState?', 'dy?', 'dfinal?'],
  outputs: ['dx?', 'ddt?', 'dA_log?', 'dB?', 'dC?', 'dD?', 'ddt_bias?', 'dinitialState?'],
  shape: ({ dy: _dy, dfinal: _dfinal, ...inputs }, { wants }: Wanting<SsdAttrs>) => gradientSpecs(inputs, wants),
  flops: (inputs) => scanFlops(inputs, 10),
  reference: ({ dy, dfinal, ...inputs }, grads) => scanBackwardReference(inputs, dy, dfinal, grads),
  webgpu: scanBackwardLaunches,
  wasm({ x, dt, A_log, B, C, D, dt_bias, initialState, dy, dfinal }, grads, _, { k, sizes, scratch }) {
    const s = ssdSizes({ x, B });
    // The kernel always forms the large gradients.
    const { dx = scratch(x.size * 4), ddt = scratch(dt.size * 4) } = grads;
    const { dB = scratch(B.size * 4), dC = scratch(C.size * 4) } = grads;
    const { dA_log, dD, ddt_bias, dinitialState } = grads;
    const dys = dy ?? scratch(x.size * 4);
    if (!dy) k.fill(dys, x.size, 0);
    const room = scratch(sizes.ssd_scan_backward_scratch(s.length, s.p, s.n));
    const inputs = [x, dt, A_log, B, C, D, dt_bias, initialState, dys, dfinal] as const;
    const outputs = [dx, ddt, dA_log, dB, dC, dD, ddt_bias, dinitialState] as const;
    k.ssd_scan_backward(...inputs, ...outputs, s.batch, s.length, s.heads, s.p, s.groups, s.n, room);
    return true;
  },
});

/**
 * The state-space recurrence of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060), per head, with dt = softplus(dt + dt_bias)
 * and A = −exp(A_log): S_t = exp(dt_t A) S_{t−1} + dt_t x_t ⊗ B_t, y_t = S_t C_t + D x_t. Inputs are floats of
 * any width, computed on in f32; states are f32. One token at a time with the state handed on is the same scan. Both
 * results have gradients, in all inputs and the initial state.
 * @returns y (B, L, H, P), of x's dtype, and the final state (B, H, P, N)
 */
export function ssdScan(inputs: SsdInputTensors, options: SsdOptions = {}): [y: Tensor, finalState: Tensor] {
  const { chunkSize = 256, initialState } = options;
  const { y, final } = apply(scan, { ...inputs, initialState: initialState ?? undefined }, { chunkSize });
  return [y, final];
}
