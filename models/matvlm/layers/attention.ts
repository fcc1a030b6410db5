import type { Tensor } from '../../../engine/tensor.ts';
import { attention, cat, reshape, rope } from '../../../ops/index.ts';
import type { Parameters } from '../../nn/parameters.ts';
import type { AttentionWeights } from '../families/family.ts';
import { kvHeads, rotaryDim, type TextConfig } from '../families/text-config.ts';
import { KeyValueCache } from '../../nn/cache.ts';
import { type ActivatedLinear, Linear } from '../../nn/layers.ts';
import type { Padding } from './padding.ts';
import type { AttentionState } from './state.ts';

/** A decoder's causal self-attention: rotary positions, grouped queries. */
export class Attention {
  readonly kind = 'attention';
  /** Queries, keys and values of h, which whoever calls `forward` makes. */
  readonly projections: readonly ActivatedLinear[];
  /** The output projection, which whoever calls `forward` applies. */
  readonly output: Linear;
  private readonly headSize: number;

  constructor(
    p: Parameters,
    private readonly c: TextConfig,
    { query, key, value, output, bias, outputBias }: AttentionWeights,
  ) {
    const d = c.hidden_size;
    this.headSize = d / c.num_attention_heads;
    const kv = kvHeads(c) * this.headSize;
    const widths = [[query, d], [key, kv], [value, kv]] as const;
    this.projections = widths.map(([name, width]) => ({ layer: new Linear(p.at(name), d, width, bias) }));
    this.output = new Linear(p.at(output), d, d, outputBias);
  }

  /**
   * @param projected what the projections make of h (B, L, D), positions `offset`…`offset+L−1`
   * @param past keys and values of the positions before, which end at `offset`, or a cache of them
   * @param padding null when all keys count; else it says where each row begins
   * @returns (B, L, D) before the output projection, and the keys and values of all positions
   */
  forward(
    projected: readonly Tensor[],
    offset: number,
    past: AttentionState | KeyValueCache | null,
    padding: Padding | null,
  ): [Tensor, AttentionState] {
    const [b, l, d] = projected[0].shape;
    const turn = { rotaryDim: rotaryDim(this.c), theta: this.c.rope_theta };
    const [q, k, v] = projected.map((y) => reshape(y, [b, l, y.shape[2] / this.headSize, this.headSize]));
    if (past instanceof KeyValueCache) {
      const y = past.attend({ q, k, v }, turn);
      return [reshape(y, [b, l, d]), { kind: 'attention', ...past.state! }];
    }
    const start = padding?.start;
    const rotary = { ...turn, start, offset: start ? 0 : offset, layout: 'blhd' } as const;
    const own = { k: rope(k, rotary), v };
    const all = past ? { k: cat([past.k, own.k], 1), v: cat([past.v, v], 1) } : own;
    const y = attention(rope(q, rotary), all.k, all.v, { causal: true, layout: 'blhd', mask: padding?.mask });
    return [reshape(y, [b, l, d]), { kind: 'attention', ...all }];
  }
}
