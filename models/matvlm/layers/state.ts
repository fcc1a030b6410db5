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

/** A state with each tensor replaced. */
export function mapState(state: DecoderState, map: (t: Tensor) => Tensor): DecoderState {
  const layers = state.layers.map((s): LayerState =>
    s.kind === 'attention'
      ? { kind: s.kind, k: map(s.k), v: map(s.v) }
      : { kind: s.kind, conv: map(s.conv), ssm: map(s.ssm) },
  );
  return { length: state.length, layers };
}

/** Frees the tensors of a state. */
export function disposeState(state: DecoderState): void {
  for (const s of state.layers) {
    if (s.kind === 'attention') {
      s.k.dispose();
      s.v.dispose();
    } else {
      s.conv.dispose();
      s.ssm.dispose();
    }
  }
}
