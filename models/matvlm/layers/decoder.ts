import { WEIGHTS } from '../../../engine/dtype.ts';
import { scope } from '../../../engine/scope.ts';
import { gradEnabled } from '../../../engine/tape.ts';
import type { Tensor } from '../../../engine/tensor.ts';
import { add, checkpoint, embedding, indexSelect, linearSum, reshape, slice } from '../../../ops/index.ts';
import type { Dropout } from '../../nn/dropout.ts';
import type { Parameters } from '../../nn/parameters.ts';
import { type MatvlmConfig, ssmLayers, type TextConfig } from '../config.ts';
import { DecoderCache } from '../../nn/cache.ts';
import { Linear } from '../../nn/layers.ts';
import type { AddResidual, Block, Norm } from '../families/family.ts';
import { familyOf } from '../families/index.ts';
import { MIXER } from '../names.ts';
import { Attention } from './attention.ts';
import { Mamba2Mixer } from './mamba2.ts';
import { mapPadding, type Padding, paddingOf, rowsAfter } from './padding.ts';
import { type DecoderState, disposeState, type LayerPast, type LayerState, layerTensors, mapLayer } from './state.ts';

/** How a pass through decoder layers is run. */
export interface PassOptions {
  /** What came before: caches of the positions before the first one here. */
  readonly past?: DecoderState | null;
  /** (B) i32: the row of `past` that each row goes on from; its own where absent. */
  readonly owner?: Tensor | null;
  /**
   * (B, S) i32 over all keys, past ones included: 0 for padding, which stands on the right of each pass. A state that
   * comes of it remembers where its rows end; going on from there takes none, unless that pass is padded too.
   */
  readonly keyMask?: Tensor | null;
  /** Residual dropout is on only where it is given (training). */
  readonly dropout?: Dropout | null;
  /** Recompute each layer in backward in place of keeping its activations. */
  readonly checkpointing?: boolean;
}

/** How a pass through one layer is run. */
export interface LayerOptions extends Omit<PassOptions, 'past'> {
  /** What follows from `keyMask` and the past, where that is known already. */
  readonly padding?: Padding | null;
}

/** One layer: its family's block around a mixer, attention or Mamba-2. */
export class DecoderLayer {
  readonly mixer: Attention | Mamba2Mixer;
  private readonly block: Block;

  /** @param mamba the mixers' configuration where the layer has one; null for attention */
  constructor(
    p: Parameters,
    private readonly c: TextConfig,
    mamba: MatvlmConfig['mamba'],
  ) {
    const { attention, block } = familyOf(c);
    this.mixer = mamba ? new Mamba2Mixer(p.at(MIXER), mamba) : new Attention(p.at(attention.at), c, attention);
    this.block = block(p, c);
  }

  /**
   * Runs the layer on x (B, L, D), the positions from `offset` on, which go on from `past`; null at the beginning.
   *
   * With `checkpointing`, and where there will be a backward pass through the layer, its activations are not kept: it
   * is run again from its inputs then. A layer whose input needs no gradient, and that has attention, is left out: its
   * weights are frozen in every training that recomputes layers.
   * @returns (B, L, D), and what the layer remembers after these positions
   */
  forward(x: Tensor, past: LayerState | null, options: LayerOptions, offset: number): [Tensor, LayerState] {
    const { keyMask = null, padding = paddingOf(x, { length: offset, rows: null }, null, keyMask) } = options;
    const recompute = options.checkpointing && gradEnabled() && (x.requiresGrad || this.mixer.kind === 'mamba');
    const how = { ...options, padding };
    return recompute ? recomputed(this, x, past, how, offset) : this.compute(x, past, how, offset);
  }

  /** `forward` without checkpointing, and with the padding known; `past` may be a cache, which goes on with x. */
  compute(x: Tensor, past: LayerPast | null, options: LayerOptions, offset: number): [Tensor, LayerState] {
    return scope(() => {
      const { owner } = options;
      const before = past && owner ? mapLayer(past as LayerState, (t) => indexSelect(t, 0, owner)) : past;
      let state: LayerState | undefined;
      const mix = (projected: readonly Tensor[]): Tensor => {
        const [mixed, after] = this.mix(projected, before, options, offset);
        state = after;
        return mixed;
      };
      const { projections, output } = this.mixer;
      const addResidual: AddResidual = (stream, terms) => this.addResidual(stream, terms, options.dropout ?? null);
      return [this.block.forward(x, { projections, mix, output }, addResidual), state!];
    });
  }

  private mix(projected: readonly Tensor[], past: LayerPast | null, options: LayerOptions, offset: number): [Tensor, LayerState] {
    const { padding = null } = options;
    if (this.mixer.kind === 'mamba') return this.mixer.forward(projected, past?.kind === 'mamba' ? past : null, padding);
    return this.mixer.forward(projected, offset, past?.kind === 'attention' ? past : null, padding);
  }

  private addResidual(
    stream: Tensor,
    terms: readonly (readonly [x: Tensor, layer: Linear])[],
    dropout: Dropout | null,
  ): Tensor {
    const { resid_pdrop: p } = this.c;
    if (!dropout || p === 0) return linearSum(stream, terms);
    return terms.reduce((sum, [x, layer]) => add(sum, dropout.forward(layer.forward(x), p)), stream);
  }
}

/** What a pass through the layers gives. */
export interface DecoderOutput {
  /** Residual stream before each layer and, last, after all of them (before the final norm); each (B, L, D). */
  readonly hidden: Tensor[];
  readonly state: DecoderState;
}

/** Embedding, layers, final norm and head of the language model. */
export class Decoder {
  readonly embed_tokens: Tensor;
  readonly layers: DecoderLayer[];
  readonly finalNorm: Norm;
  readonly head: Linear;

  constructor(
    p: Parameters,
    private readonly config: MatvlmConfig,
  ) {
    const c = config.model.text_config;
    const family = familyOf(c);
    const model = p.at('model');
    const ssm = new Set(ssmLayers(config));
    this.embed_tokens = model.at('embed_tokens').get('weight', [c.vocab_size, c.hidden_size], WEIGHTS);
    this.layers = Array.from(
      { length: c.num_hidden_layers },
      (_, i) => new DecoderLayer(model.at('layers').at(i), c, ssm.has(i) ? config.mamba : null),
    );
    this.finalNorm = family.finalNorm(model, c);
    this.head = new Linear(p.at('lm_head'), c.hidden_size, c.vocab_size, family.headBias);
  }

  /** ids i32 (…) → (…, D) */
  embed(ids: Tensor): Tensor {
    return embedding(this.embed_tokens, ids);
  }

  /** Runs all layers on embeddings (B, L, D): the hidden states, and the state from which a later pass goes on. */
  forward(embeds: Tensor, options: PassOptions = {}): DecoderOutput {
    const layers: LayerState[] = [];
    const padding = this.padding(embeds, options);
    const hidden = this.run(embeds, options, padding, (state) => void layers.push(state));
    const length = (options.past?.length ?? 0) + embeds.shape[1];
    return { hidden, state: { length, layers, rows: padding && rowsAfter(padding) } };
  }

  /** `forward` where nothing goes on from here: the `hidden` states alone. */
  hiddenStates(embeds: Tensor, options: PassOptions = {}): Tensor[] {
    const padding = this.padding(embeds, options);
    return this.run(embeds, options, padding, (state) => disposeState({ layers: [state], rows: null }));
  }

  /** Memory for the positions of texts of one length, to be filled by `next`. */
  cache(): DecoderCache {
    const kinds = this.layers.map(({ mixer }) => mixer.kind);
    return new DecoderCache(this.embed_tokens.backend, kinds, this.config.model.text_config.max_position_embeddings);
  }

  /**
   * Runs embeddings (B, L, D) of the positions that follow those of a cache, which takes them up. Has no gradient.
   * @returns the logits behind the last of them, (B, V)
   * @throws ArgumentError for more positions than the context has
   */
  next(embeds: Tensor, cache: DecoderCache): Tensor {
    const [b, l, d] = embeds.shape;
    return cache.append(l, () => {
      const hidden = this.layers.reduce((x, layer, i) => {
        const y = scope(() => layer.compute(x, cache.layers[i], {}, cache.length)[0]);
        if (x !== embeds) x.dispose();
        return y;
      }, embeds);
      return this.logits(reshape(l === 1 ? hidden : slice(hidden, 1, -1), [b, d]));
    });
  }

  private padding(embeds: Tensor, { past, owner, keyMask }: PassOptions): Padding | null {
    return paddingOf(embeds, past ?? { length: 0, rows: null }, owner ?? null, keyMask ?? null);
  }

  private run(
    embeds: Tensor,
    { past, owner, dropout, checkpointing }: PassOptions,
    padding: Padding | null,
    take: (state: LayerState) => void,
  ): Tensor[] {
    const hidden = [embeds];
    const options = { owner, dropout, checkpointing, padding };
    this.layers.forEach((layer, i) => {
      const [y, state] = layer.forward(hidden[i], past?.layers[i] ?? null, options, past?.length ?? 0);
      hidden.push(y);
      take(state);
    });
    return hidden;
  }

  /** (…, D) after the last layer → logits (…, V). */
  logits(hidden: Tensor): Tensor {
    return scope(() => this.head.forward(this.finalNorm.forward(hidden)));
  }
}

/**
 * A layer that keeps only what goes in, branching past included. All of that is handed to `checkpoint`, because what is
 * closed over is not kept. Dropout draws the same masks when the layer runs again.
 */
function recomputed(
  layer: DecoderLayer,
  x: Tensor,
  past: LayerState | null,
  options: LayerOptions,
  offset: number,
): [Tensor, LayerState] {
  const { owner = null, padding = null, dropout = null } = options;
  const calls = dropout?.calls ?? 0;
  const body = (inputs: Tensor[]): Tensor[] => {
    const rest = inputs.values();
    const take = (): Tensor => rest.next().value!;
    const own = { x: take(), past: past && mapLayer(past, take) };
    const [y, state] = layer.compute(
      own.x,
      own.past,
      { ...options, owner: owner && take(), padding: padding && mapPadding(padding, take) },
      offset,
    );
    return [y, ...layerTensors(state)];
  };
  const replay = <T>(again: () => T): T => {
    if (!dropout) return again();
    const now = dropout.calls;
    dropout.calls = calls;
    const result = again();
    dropout.calls = now;
    return result;
  };
  const given = [x, ...(past ? layerTensors(past) : []), ...(owner ? [owner] : [])];
  if (padding) mapPadding(padding, (t) => (given.push(t), t));
  const [y, a, b] = checkpoint(body, given, replay);
  const { kind } = layer.mixer;
  return [y, kind === 'mamba' ? { kind, conv: a, ssm: b } : { kind, k: a, v: b }];
}
