import type { Backend } from '../../engine/backend.ts';
import { keep, scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { cat, embedding, indexSelect, reshape, slice, zeros } from '../../ops/index.ts';
import { Parameters, type ParameterSource } from '../nn/parameters.ts';
import { featureLayer, type MatvlmConfig } from './config.ts';
import { Connector } from './layers/connector.ts';
import { Decoder, type DecoderOutput, type PassOptions } from './layers/decoder.ts';
import { SiglipTower } from './layers/siglip.ts';
import { type Spliced, spliceLayout, type TokenBatch } from './splice.ts';

/**
 * A vision-language model: SigLIP tower, connector, and a decoder whose layers hold attention or Mamba-2 mixers. One
 * class for teacher and student, for training and inference, on every backend.
 */
export class MaTVLM {
  /** Every parameter by its public name. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly tower: SiglipTower;
  readonly connector: Connector;
  readonly decoder: Decoder;

  /**
   * @param source where parameters come from: fresh ones, or another model's to share
   */
  constructor(
    readonly config: MatvlmConfig,
    readonly backend: Backend,
    source: ParameterSource,
  ) {
    const p = new Parameters(source);
    const { vision_config: vision, text_config: text } = config.model;
    const parts = scope(() => {
      const tower = new SiglipTower(p.at('vision_tower').at('_vision_tower').at('vision_model'), vision);
      const connector = new Connector(p.at('connector').at('_connector'), vision.hidden_size, text.hidden_size);
      const decoder = new Decoder(p.at('language_model'), config);
      for (const tensor of p.all.values()) keep(tensor);
      return { tower, connector, decoder };
    });
    this.tower = parts.tower;
    this.connector = parts.connector;
    this.decoder = parts.decoder;
    this.parameters = p.all;
  }

  /**
   * pixels (B, 3, size, size) in −1…1 → the tower's features (B, T, vision width), before the connector: what teacher
   * and student share. `vision_feature_select_strategy: "patch"` drops the first patch, as public weights expect.
   */
  visionFeatures(pixels: Tensor): Tensor {
    const { vision_feature_layer, vision_feature_select_strategy, vision_config } = this.config.model;
    const layer = featureLayer(vision_feature_layer, vision_config.num_hidden_layers);
    return scope(() => {
      const features = this.tower.hiddenStates(pixels, layer)[layer];
      return vision_feature_select_strategy === 'patch' ? slice(features, 1, 1) : features;
    });
  }

  /**
   * Embeds text and images: (B, L, D).
   * @param textIds i32, one text after the other
   * @param rows i32 (B, L): for each position a row of [features | text | zeros]
   * @param features (images, T, D) after the connector
   */
  embedSpliced(textIds: Tensor, rows: Tensor, features: Tensor): Tensor {
    const [images, perImage, d] = features.shape;
    return scope(() => {
      const text = embedding(this.decoder.embed_tokens, textIds);
      const all = cat([reshape(features, [images * perImage, d]), text, zeros(this.backend, [1, d])], 0);
      return reshape(indexSelect(all, 0, reshape(rows, [rows.size])), [...rows.shape, d]);
    });
  }

  /**
   * Embeds a batch of token ids with image features in place of the placeholder, padded on the right with zeros.
   * @param features (B, T, D) after the connector
   */
  splice(batch: TokenBatch, features: Tensor): Spliced & { embeds: Tensor } {
    const layout = spliceLayout(batch, features.shape[1]);
    const embeds = scope(() => {
      const textIds = fromData(this.backend, layout.textIds, [layout.textIds.length], 'i32');
      const rows = fromData(this.backend, layout.rows, [layout.batch, layout.length], 'i32');
      return this.embedSpliced(textIds, rows, features);
    });
    return { ...layout, embeds };
  }

  /** Image features (B, T, vision width) and tokens → hidden states and state of the decoder. */
  forward(batch: TokenBatch, features: Tensor, options: PassOptions = {}): DecoderOutput & { spliced: Spliced } {
    const spliced = this.splice(batch, this.connector.forward(features));
    const { mask, batch: b, length } = spliced;
    const keyMask = mask.includes(0) ? fromData(this.backend, mask, [b, length], 'i32') : null;
    return { ...this.decoder.forward(spliced.embeds, { ...options, keyMask }), spliced };
  }
}
