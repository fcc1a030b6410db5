import type { Tensor } from '../../../engine/tensor.ts';
import type { DecoderCache, LayerCache } from '../../nn/cache.ts';

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

/** What a layer goes on from: a state, which stays as it is, or a cache, which it appends to. */
export type LayerPast = LayerState | LayerCache;

/** How rows of different lengths lie in a state: (B, S) i32, 0 for padding, and (B) i32, each row's own positions. */
export interface RowLengths {
  readonly mask: Tensor;
  readonly lengths: Tensor;
}

/** What a decoder remembers of `length` positions: one state per layer. */
export interface DecoderState {
  readonly length: number;
  readonly layers: readonly LayerState[];
  /** Which of them are a row's own; null where all are. */
  readonly rows: RowLengths | null;
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

/** The lengths of rows with each tensor replaced. */
export function mapRows(rows: RowLengths, map: (t: Tensor) => Tensor): RowLengths {
  return { mask: map(rows.mask), lengths: map(rows.lengths) };
}

/** A state with each tensor replaced. */
export function mapState({ length, layers, rows }: DecoderState, map: (t: Tensor) => Tensor): DecoderState {
  return { length, layers: layers.map((s) => mapLayer(s, map)), rows: rows && mapRows(rows, map) };
}

/** Frees the tensors of a state. */
export function disposeState({ layers, rows }: Pick<DecoderState, 'layers' | 'rows'>): void {
  for (const t of layers.flatMap(layerTensors)) t.dispose();
  if (rows) mapRows(rows, (t) => (t.dispose(), t));
}

/** Copies a state whose rows are of one length into an empty cache. */
export function fillCache(cache: DecoderCache, { length, layers }: DecoderState): void {
  cache.append(length, () =>
    layers.forEach((state, i) => {
      const layer = cache.layers[i];
      if (state.kind === 'attention' && layer.kind === 'attention') layer.append(state.k, state.v);
      if (state.kind === 'mamba' && layer.kind === 'mamba') layer.set(state.conv, state.ssm);
    }),
  );
}
