import { scope } from '../../../engine/scope.ts';
import type { Tensor } from '../../../engine/tensor.ts';
import { add, attention, conv2d, geluTanh, permute, reshape } from '../../../ops/index.ts';
import type { Parameters } from '../../nn/parameters.ts';
import type { VisionConfig } from '../config.ts';
import { LayerNorm, Linear } from '../../nn/layers.ts';

/** Full self-attention over patches. */
class SiglipAttention {
  private readonly q_proj: Linear;
  private readonly k_proj: Linear;
  private readonly v_proj: Linear;
  private readonly out_proj: Linear;

  constructor(
    p: Parameters,
    private readonly c: VisionConfig,
  ) {
    const d = c.hidden_size;
    this.q_proj = new Linear(p.at('q_proj'), d, d);
    this.k_proj = new Linear(p.at('k_proj'), d, d);
    this.v_proj = new Linear(p.at('v_proj'), d, d);
    this.out_proj = new Linear(p.at('out_proj'), d, d);
  }

  /** (B, T, D) → (B, T, D), `addend` added */
  forward(x: Tensor, addend: Tensor): Tensor {
    const [b, t, d] = x.shape;
    const heads = this.c.num_attention_heads;
    const split = (y: Tensor) => reshape(y, [b, t, heads, d / heads]);
    const y = attention(split(this.q_proj.forward(x)), split(this.k_proj.forward(x)), split(this.v_proj.forward(x)), {
      causal: false,
      layout: 'blhd',
    });
    return this.out_proj.forward(reshape(y, [b, t, d]), { addend });
  }
}

/** The linear layers whose output is added to the residual stream, by their names in a layer. */
export const SIGLIP_RESIDUALS = ['self_attn.out_proj', 'mlp.fc2'];

/** One pre-norm encoder layer. */
class SiglipLayer {
  private readonly layer_norm1: LayerNorm;
  private readonly self_attn: SiglipAttention;
  private readonly layer_norm2: LayerNorm;
  private readonly fc1: Linear;
  private readonly fc2: Linear;

  constructor(p: Parameters, c: VisionConfig) {
    this.layer_norm1 = new LayerNorm(p.at('layer_norm1'), c.hidden_size, c.layer_norm_eps);
    this.self_attn = new SiglipAttention(p.at('self_attn'), c);
    this.layer_norm2 = new LayerNorm(p.at('layer_norm2'), c.hidden_size, c.layer_norm_eps);
    this.fc1 = new Linear(p.at('mlp').at('fc1'), c.hidden_size, c.intermediate_size);
    this.fc2 = new Linear(p.at('mlp').at('fc2'), c.intermediate_size, c.hidden_size);
  }

  forward(x: Tensor): Tensor {
    return scope(() => {
      const h = this.self_attn.forward(this.layer_norm1.forward(x), x);
      const inner = this.fc1.forward(this.layer_norm2.forward(h), { activation: geluTanh });
      return this.fc2.forward(inner, { addend: h });
    });
  }
}

/**
 * SigLIP's vision tower (Zhai et al. 2023): patch convolution without padding, learned positions, no class token,
 * pre-norm layers. The pooling head of public checkpoints is not part of it.
 */
export class SiglipTower {
  private readonly patch: { weight: Tensor; bias: Tensor };
  private readonly positions: Tensor;
  private readonly layers: SiglipLayer[];

  constructor(
    p: Parameters,
    private readonly c: VisionConfig,
  ) {
    const patches = Math.floor(c.image_size / c.patch_size) ** 2;
    const embeddings = p.at('embeddings');
    const patch = embeddings.at('patch_embedding');
    this.patch = {
      weight: patch.get('weight', [c.hidden_size, c.num_channels, c.patch_size, c.patch_size]),
      bias: patch.get('bias', [c.hidden_size]),
    };
    this.positions = embeddings.at('position_embedding').get('weight', [patches, c.hidden_size]);
    const layers = p.at('encoder').at('layers');
    this.layers = Array.from({ length: c.num_hidden_layers }, (_, i) => new SiglipLayer(layers.at(i), c));
    // Part of every checkpoint, but features are taken before it.
    p.at('post_layernorm').get('weight', [c.hidden_size]);
    p.at('post_layernorm').get('bias', [c.hidden_size]);
  }

  /** pixels (B, 3, size, size) → hidden states 0…`upTo`, each (B, T, D); 0 is the embedding. */
  hiddenStates(pixels: Tensor, upTo = this.c.num_hidden_layers): Tensor[] {
    const states = [scope(() => this.embed(pixels))];
    for (const layer of this.layers.slice(0, upTo)) states.push(layer.forward(states.at(-1)!));
    return states;
  }

  private embed(pixels: Tensor): Tensor {
    const patches = conv2d(pixels, this.patch.weight, this.patch.bias, { stride: this.c.patch_size, padding: 0 });
    const [b, d, rows, columns] = patches.shape;
    return add(permute(reshape(patches, [b, d, rows * columns]), [0, 2, 1]), this.positions);
  }
}
