import type { Parameters } from '../../../engine/module.ts';
import type { Random } from '../../../engine/random.ts';
import { scope } from '../../../engine/scope.ts';
import { checkpoint, gradEnabled } from '../../../engine/tape.ts';
import type { Tensor } from '../../../engine/tensor.ts';
import { add, dropout, embedding, geluTanh } from '../../../ops/index.ts';
import { type MatvlmConfig, ssmLayers, type TextConfig } from '../config.ts';
import { PhiAttention } from './attention.ts';
import { LayerNorm, Linear } from './basic.ts';
import { Mamba2Mixer } from './mamba2.ts';
import type { DecoderState, LayerState } from './state.ts';

/** How a pass through decoder layers is run. */
export interface PassOptions {
  /** What came before: caches of the positions before the first one here. */
  readonly past?: DecoderState | null;
  /** (B, S) over all keys, past ones included: 0 for padding. */
  readonly keyMask?: Tensor | null;
  /** Residual dropout is on only where a generator is given (training). */
  readonly random?: Random | null;
  /** Recompute each layer in backward in place of keeping its activations. */
  readonly checkpointing?: boolean;
}

/** Phi's block: one norm, mixer and MLP side by side. `y = x + mixer(h) + mlp(h)`, `h = LN(x)`. */
export class PhiBlock {
  readonly mixer: PhiAttention | Mamba2Mixer;
  private readonly input_layernorm: LayerNorm;
  private readonly fc1: Linear;
  private readonly fc2: Linear;

  constructor(
    p: Parameters,
    private readonly c: TextConfig,
    mamba: MatvlmConfig['mamba'],
  ) {
    this.input_layernorm = new LayerNorm(p.at('input_layernorm'), c.hidden_size, c.layer_norm_eps);
    this.mixer = mamba ? new Mamba2Mixer(p.at('mamba'), mamba) : new PhiAttention(p.at('self_attn'), c);
    this.fc1 = new Linear(p.at('mlp').at('fc1'), c.hidden_size, c.intermediate_size);
    this.fc2 = new Linear(p.at('mlp').at('fc2'), c.intermediate_size, c.hidden_size);
  }

  /** x (B, L, D) → (B, L, D) and the layer's state after it. */
  forward(x: Tensor, past: LayerState | null, options: PassOptions, offset: number): [Tensor, LayerState] {
    return scope(() => {
      const h = this.input_layernorm.forward(x);
      const [mixed, state] = this.mix(h, past, options, offset);
      const mlp = this.fc2.forward(geluTanh(this.fc1.forward(h)));
      const drop = (t: Tensor) => this.drop(t, options.random ?? null);
      return [add(x, add(drop(mixed), drop(mlp))), state];
    });
  }

  private mix(h: Tensor, past: LayerState | null, options: PassOptions, offset: number): [Tensor, LayerState] {
    if (this.mixer.kind === 'mamba') return this.mixer.forward(h, past?.kind === 'mamba' ? past : null);
    return this.mixer.forward(h, offset, past?.kind === 'attention' ? past : null, options.keyMask ?? null);
  }

  private drop(t: Tensor, random: Random | null): Tensor {
    return random && this.c.resid_pdrop > 0 ? dropout(t, this.c.resid_pdrop, random.integer(2 ** 32)) : t;
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
  readonly layers: PhiBlock[];
  readonly final_layernorm: LayerNorm;
  readonly lm_head: Linear;

  constructor(p: Parameters, config: MatvlmConfig) {
    const c = config.model.text_config;
    const model = p.at('model');
    const ssm = new Set(ssmLayers(config));
    this.embed_tokens = model.at('embed_tokens').get('weight', [c.vocab_size, c.hidden_size]);
    this.layers = Array.from(
      { length: c.num_hidden_layers },
      (_, i) => new PhiBlock(model.at('layers').at(i), c, ssm.has(i) ? config.mamba : null),
    );
    this.final_layernorm = new LayerNorm(model.at('final_layernorm'), c.hidden_size, c.layer_norm_eps);
    this.lm_head = new Linear(p.at('lm_head'), c.hidden_size, c.vocab_size);
  }

  /** ids i32 (…) → (…, D) */
  embed(ids: Tensor): Tensor {
    return embedding(this.embed_tokens, ids);
  }

  /** Runs all layers on embeddings (B, L, D). */
  forward(embeds: Tensor, options: PassOptions = {}): DecoderOutput {
    const hidden = [embeds];
    const states: LayerState[] = [];
    const offset = options.past?.length ?? 0;
    this.layers.forEach((layer, i) => {
      const past = options.past?.layers[i] ?? null;
      const run = options.checkpointing && gradEnabled() && !past ? checkpointed : plain;
      const [y, state] = run(layer, hidden[i], past, options, offset);
      hidden.push(y);
      states.push(state);
    });
    return { hidden, state: { length: offset + embeds.shape[1], layers: states } };
  }

  /** (…, D) after the last layer → logits (…, V). */
  logits(hidden: Tensor): Tensor {
    return scope(() => this.lm_head.forward(this.final_layernorm.forward(hidden)));
  }
}

type Run = (l: PhiBlock, x: Tensor, past: LayerState | null, o: PassOptions, offset: number) => [Tensor, LayerState];

const plain: Run = (layer, x, past, options, offset) => layer.forward(x, past, options, offset);

/** Keeps only the layer's input; dropout draws the same masks when the layer runs again. */
const checkpointed: Run = (layer, x, past, options, offset) => {
  const random = options.random ?? null;
  const drawn = random?.state();
  let kind = 'attention' as LayerState['kind'];
  const body = ([input]: Tensor[]): Tensor[] => {
    const [y, state] = layer.forward(input, past, options, offset);
    kind = state.kind;
    return state.kind === 'attention' ? [y, state.k, state.v] : [y, state.conv, state.ssm];
  };
  const replay = <T>(again: () => T): T => {
    const now = random?.state();
    if (random && drawn) random.restore(drawn);
    const result = again();
    if (random && now) random.restore(now);
    return result;
  };
  const [y, a, b] = checkpoint(body, [x], add, replay);
  return [y, kind === 'mamba' ? { kind, conv: a, ssm: b } : { kind: 'attention', k: a, v: b }];
};
