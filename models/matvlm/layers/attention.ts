import type { Tensor } from '../../../engine/tensor.ts';
import { attention, cat, reshape, rope, type RopeOptions } from '../../../ops/index.ts';
import type { Parameters } from '../../nn/parameters.ts';
import type { AttentionWeights } from '../families/family.ts';
import { kvHeads, rotaryDim, type TextConfig } from '../families/text-config.ts';
import { KeyValueCache } from '../../nn/cache.ts';
import { Linear } from '../../nn/layers.ts';
import type { Padding } from './padding.ts';
import type { AttentionState } from './state.ts';

/** A decoder's causal self-attention: rotary positions, grouped queries. */
export class Attention {
  readonly kind = 'attention';
  private readonly query: Linear;
  private readonly key: Linear;
  private readonly value: Linear;
  /** The output projection, which whoever calls `forward` applies. */
  readonly output: Linear;
  private readonly heads: number;
  private readonly kv: number;
  private readonly headSize: number;

  constructor(
    p: Parameters,
    private readonly c: TextConfig,
    { query, key, value, output, bias, outputBias }: AttentionWeights,
  ) {
    const d = c.hidden_size;
    this.heads = c.num_attention_heads;
    this.kv = kvHeads(c);
    this.headSize = d / this.heads;
    this.query = new Linear(p.at(query), d, d, bias);
    this.key = new Linear(p.at(key), d, this.kv * this.headSize, bias);
    this.value = new Linear(p.at(value), d, this.kv * this.headSize, bias);
    this.output = new Linear(p.at(output), d, d, outputBias);
  }

  /**
   * @param h (B, L, D), positions `offset`…`offset+L−1`
   * @param past keys and values of the positions before, which end at `offset`, or a cache of them
   * @param padding null when all keys count; else it says where each row begins
   * @returns (B, L, D) before the output projection, and the keys and values of all positions
   */
  forward(
    h: Tensor,
    offset: number,
    past: AttentionState | KeyValueCache | null,
    padding: Padding | null,
  ): [Tensor, AttentionState] {
    const [b, l, d] = h.shape;
    const turn = { rotaryDim: rotaryDim(this.c), theta: this.c.rope_theta };
    const split = (y: Tensor, heads: number) => reshape(y, [b, l, heads, this.headSize]);
    const own = {
      q: split(this.query.forward(h), this.heads),
      k: split(this.key.forward(h), this.kv),
      v: split(this.value.forward(h), this.kv),
    };
    const start = padding?.start;
    const rotary = { ...turn, start, offset: start ? 0 : offset, layout: 'blhd' } as const;
    const all = past instanceof KeyValueCache ? past.appendTurned(own, turn) : joined(past, own, rotary);
    const y = attention(all.q, all.k, all.v, { causal: true, layout: 'blhd', mask: padding?.mask, keyCount: all.keyCount });
    return [reshape(y, [b, l, d]), { kind: 'attention', k: all.k, v: all.v }];
  }
}

/** Queries and keys turned by their positions, keys and values behind those of the positions before. */
function joined(
  past: AttentionState | null,
  { q, k, v }: Readonly<Record<'q' | 'k' | 'v', Tensor>>,
  rotary: RopeOptions,
): ReturnType<KeyValueCache['appendTurned']> {
  const turned = { q: rope(q, rotary), k: rope(k, rotary), v };
  return past ? { ...turned, k: cat([past.k, turned.k], 1), v: cat([past.v, v], 1) } : turned;
}
