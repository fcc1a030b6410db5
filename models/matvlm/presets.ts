/** `config.json` of models to be trained from nothing. */
import type { Tokenizer } from '../nn/text/tokenizer.ts';

/**
 * A teacher of some 2.5 million parameters in TinyLLaVA's architecture: 64 × 64 images in patches of 8, four vision
 * layers, eight decoder layers, all of width 128.
 * @param tokenizer gives the size of the vocabulary and the ids at which texts begin and end
 */
export function tinyConfig({ size, bosId, eosId }: Pick<Tokenizer, 'size' | 'bosId' | 'eosId'>): Record<string, unknown> {
  return {
    model_type: 'tinyllava',
    connector_type: 'mlp2x_gelu',
    conv_version: 'short',
    image_aspect_ratio: 'square',
    vision_feature_layer: -1,
    vision_feature_select_strategy: 'cls_patch',
    tokenizer_model_max_length: 512,
    vision_config: {
      model_type: 'siglip_vision_model',
      image_size: 64,
      patch_size: 8,
      hidden_size: 128,
      num_hidden_layers: 4,
      num_attention_heads: 4,
      intermediate_size: 512,
    },
    text_config: {
      model_type: 'phi',
      vocab_size: size,
      hidden_size: 128,
      num_hidden_layers: 8,
      num_attention_heads: 4,
      intermediate_size: 512,
      partial_rotary_factor: 0.5,
      max_position_embeddings: 512,
      bos_token_id: bosId,
      eos_token_id: eosId,
    },
  };
}
