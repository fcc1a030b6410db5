import type { Tensor } from '../../../engine/tensor.ts';

/** What an attention layer remembers: keys after rotary and values, (B, S, KV, Dh). */
export interface AttentionState {
  readonly kind: 'attention';
  readonly k: Tensor;
  readonly v: Tensor;
}

/** What a Mamba-2 layer remembers: the last K−1 pre-activation columns (B, K−1, C) and S (B, H, P, N). */
export interface MambaState {
  readonly kind: 'mamba';
  readonly conv: Tensor;
  readonly ssm: Tensor;
}

export type LayerState = AttentionState | MambaState;

/** What a decoder remembers of `length` positions: one state per layer. */
export interface DecoderState {
  readonly length: number;
  readonly layers: readonly LayerState[];
}

/** A layer's state with each tensor replaced, in the order of `layerTensors`. */
export function mapLayer(s: LayerState, map: (t: Tensor) => Tensor): LayerState {
  return s.kind === 'attention'
    ? { kind: s.kind, k: map(s.k), v: map(s.v) }
    : { kind: s.kind, conv: map(s.conv), ssm: map(s.ssm) };
}

/** The tensors of a layer's state. */
export function layerTensors(s: LayerState): [Tensor, Tensor] {
  return s.kind === 'attention' ? [s.k, s.v] : [s.conv, s.ssm];
}

/** A state with each tensor replaced. */
export function mapState(state: DecoderState, map: (t: Tensor) => Tensor): DecoderState {
  return { length: state.length, layers: state.layers.map((s) => mapLayer(s, map)) };
}

/** Frees the tensors of a state. */
export function disposeState(state: Pick<DecoderState, 'layers'>): void {
  for (const t of state.layers.flatMap(layerTensors)) t.dispose();
}
