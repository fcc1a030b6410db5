import { apply, defineOp, type Op, spec, type WasmArg } from '../../engine/positional.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { scanBackwardLaunches, scanLaunches } from './kernels.ts';
import { scanBackwardReference, scanReference } from './reference.ts';
import { checkSsd, type SsdAttrs, ssdSizes } from './shape.ts';

export interface SsdInputTensors {
  /** (B, L, H, P) */
  readonly x: Tensor;
  /** (B, L, H), before bias and softplus */
  readonly dt: Tensor;
  /** (H) */
  readonly A_log: Tensor;
  /** (B, L, G, N), G a divisor of H: head h reads group ⌊h / (H/G)⌋ */
  readonly B: Tensor;
  /** (B, L, G, N) */
  readonly C: Tensor;
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

interface BackwardAttrs extends SsdAttrs {
  /** Which of the gradients of y and of the final state follow the inputs. */
  readonly dy: boolean;
  readonly dfinal: boolean;
  /** Which gradients come out, in the order of the inputs. */
  readonly wants: readonly boolean[];
}

/** Inputs of the backward by name. */
function split<T>(inputs: readonly T[], attrs: BackwardAttrs): { inputs: T[]; dy?: T; dfinal?: T } {
  const count = attrs.initial ? 8 : 7;
  return {
    inputs: inputs.slice(0, count),
    dy: attrs.dy ? inputs[count] : undefined,
    dfinal: attrs.dfinal ? inputs[count + (attrs.dy ? 1 : 0)] : undefined,
  };
}

function byWant<T>(outputs: readonly T[], wants: readonly boolean[]): (T | undefined)[] {
  let next = 0;
  return wants.map((want) => (want ? outputs[next++] : undefined));
}

/** x, dt, A_log, B, C, D, dt_bias and the initial state, or 0 for none. */
function wasmInputs(inputs: readonly WasmArg[]) {
  const [x, dt, aLog, b, c, d, bias, initial] = inputs;
  return [x.ptr, dt.ptr, aLog.ptr, b.ptr, c.ptr, d.ptr, bias.ptr, initial?.ptr ?? 0] as const;
}

const scan: Op<SsdAttrs> = defineOp({
  name: 'ssd_scan',
  shape(inputs, attrs) {
    const s = checkSsd(inputs, attrs);
    return [spec(inputs[0].shape), spec([s.batch, s.heads, s.p, s.n])];
  },
  reference: ({ inputs, outputs: [y, final] }) => scanReference(ssdSizes(inputs[0], inputs[3]), inputs, y, final),
  webgpu: (call) => scanLaunches(ssdSizes(call.inputs[0], call.inputs[3]), call),
  wasm({ inputs, outputs: [y, final], k, scratch }) {
    const s = ssdSizes(inputs[0], inputs[3]);
    const room = scratch(k.ssd_scan_scratch(s.length));
    k.ssd_scan(...wasmInputs(inputs), y.ptr, final.ptr, s.batch, s.length, s.heads, s.p, s.groups, s.n, room);
    return true;
  },
  saves: { inputs: [0, 1, 2, 3, 4, 5, 6, 7] },
  backward({ attrs, inputSpecs, needs, grads: [dy, dfinal], input }) {
    const inputs = [...inputSpecs.map((_, i) => input(i)), ...(dy ? [dy] : []), ...(dfinal ? [dfinal] : [])];
    const given = { dy: dy !== null, dfinal: dfinal !== null };
    const formed = apply(scanBackward, inputs, { ...attrs, ...given, wants: needs });
    return byWant(formed, needs).map((grad) => grad ?? null);
  },
  flops: ({ inputs: [x, , , b] }) => 6 * x.size * b.shape[3],
});

const scanBackward: Op<BackwardAttrs> = defineOp({
  name: 'ssd_scan_backward',
  shape: (inputs, { wants }) => inputs.filter((_, i) => wants[i]).map((t) => spec(t.shape)),
  reference({ inputs, outputs, attrs }) {
    const parts = split(inputs, attrs);
    const s = ssdSizes(inputs[0], inputs[3]);
    scanBackwardReference(s, parts.inputs, parts.dy, parts.dfinal, byWant(outputs, attrs.wants));
  },
  webgpu(call) {
    const parts = split(call.inputs, call.attrs);
    const grads = byWant(call.outputs, call.attrs.wants);
    return scanBackwardLaunches(ssdSizes(call.inputs[0], call.inputs[3]), call, { ...parts, grads });
  },
  wasm({ inputs, outputs, attrs, k, scratch }) {
    const parts = split(inputs, attrs);
    const [x, , , b] = inputs;
    const s = ssdSizes(x, b);
    const grads = byWant(outputs, attrs.wants);
    // The kernel always forms the large gradients.
    const [dx, ddt, dB, dC] = [0, 1, 3, 4].map((i) => grads[i]?.ptr ?? scratch(inputs[i].size * 4));
    const [dA, dD, dBias, dInitial] = [2, 5, 6, 7].map((i) => grads[i]?.ptr ?? 0);
    const dy = parts.dy?.ptr ?? scratch(x.size * 4);
    if (!parts.dy) k.fill(dy, x.size, 0);
    const args = [...wasmInputs(parts.inputs), dy, parts.dfinal?.ptr ?? 0] as const;
    const room = scratch(k.ssd_scan_backward_scratch(s.length, s.p, s.n));
    const sizes = [s.batch, s.length, s.heads, s.p, s.groups, s.n] as const;
    k.ssd_scan_backward(...args, dx, ddt, dA, dB, dC, dD, dBias, dInitial, ...sizes, room);
    return true;
  },
  flops: ({ inputs: [x, , , b] }) => 18 * x.size * b.shape[3],
});

/**
 * The state-space recurrence of Mamba-2 (Dao & Gu 2024, arXiv 2405.21060), per head, with dt = softplus(dt + dt_bias)
 * and A = −exp(A_log): S_t = exp(dt_t A) S_{t−1} + dt_t x_t ⊗ B_t, y_t = S_t C_t + D x_t. All f32. One token at a
 * time with the state handed on is the same scan. Both results have gradients, in all inputs and the initial state.
 * @returns y (B, L, H, P) and the final state (B, H, P, N)
 */
export function ssdScan(inputs: SsdInputTensors, options: SsdOptions = {}): [y: Tensor, finalState: Tensor] {
  const { chunkSize = 256, initialState = null } = options;
  const { x, dt, A_log, B, C, D, dt_bias } = inputs;
  const tensors = [x, dt, A_log, B, C, D, dt_bias, ...(initialState === null ? [] : [initialState])];
  const [y, final] = apply(scan, tensors, { chunkSize, initial: initialState !== null });
  return [y, final];
}
