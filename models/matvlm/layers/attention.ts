import type { Parameters } from '../../../engine/module.ts';
import type { Tensor } from '../../../engine/tensor.ts';
import { attention, cat, reshape, rope } from '../../../ops/index.ts';
import { kvHeads, rotaryDim, type TextConfig } from '../config.ts';
import { Linear } from '../../nn/layers.ts';
import type { Padding } from './padding.ts';
import type { AttentionState } from './state.ts';

/** Phi's causal self-attention: partial rotary, grouped queries, biases everywhere. */
export class PhiAttention {
  readonly kind = 'attention';
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly dense: Linear;
  private readonly heads: number;
  private readonly kv: number;
  private readonly headSize: number;

  constructor(
    p: Parameters,
    private readonly c: TextConfig,
  ) {
    const d = c.hidden_size;
    this.heads = c.num_attention_heads;
    this.kv = kvHeads(c);
    this.headSize = d / this.heads;
    this.q_proj = new Linear(p.at('q_proj'), d, d);
    this.k_proj = new Linear(p.at('k_proj'), d, this.kv * this.headSize);
    this.v_proj = new Linear(p.at('v_proj'), d, this.kv * this.headSize);
    this.dense = new Linear(p.at('dense'), d, d);
  }

  /**
   * @param h (B, L, D), positions `offset`…`offset+L−1`
   * @param past keys and values of the positions before
   * @param padding null when all keys count; else it says where each row begins
   */
  forward(h: Tensor, offset: number, past: AttentionState | null, padding: Padding | null): [Tensor, AttentionState] {
    const [b, l, d] = h.shape;
    const start = padding?.start;
    const turn = { rotaryDim: rotaryDim(this.c), theta: this.c.rope_theta, layout: 'blhd' as const };
    const rotary = { ...turn, start, offset: start ? 0 : offset };
    const split = (y: Tensor, heads: number) => reshape(y, [b, l, heads, this.headSize]);
    const q = rope(split(this.q_proj.forward(h), this.heads), rotary);
    let k = rope(split(this.k_proj.forward(h), this.kv), rotary);
    let v = split(this.v_proj.forward(h), this.kv);
    if (past) {
      k = cat([past.k, k], 1);
      v = cat([past.v, v], 1);
    }
    const y = attention(q, k, v, { causal: true, layout: 'blhd', mask: padding?.mask });
    return [this.dense.forward(reshape(y, [b, l, d])), { kind: 'attention', k, v }];
  }
}
