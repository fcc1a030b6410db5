import type { Tensor } from '../../../engine/tensor.ts';
import {
  cat,
  causalConv1d,
  causalConv1dStep_,
  repeatInterleave,
  reshape,
  rmsNormGated,
  slice,
  split,
  ssdScan,
  ssdStep_,
  zeros,
} from '../../../ops/index.ts';
import type { Parameters } from '../../nn/parameters.ts';
import type { MambaConfig } from '../config.ts';
import { RecurrentCache } from '../../nn/cache.ts';
import { type ActivatedLinear, Linear } from '../../nn/layers.ts';
import { ownLast, type Padding, still } from './padding.ts';
import type { MambaState } from './state.ts';

/** Width of the convolution. */
export const CONV_WIDTH = 4;
/** Epsilon of the gated norm. */
const NORM_EPS = 1e-5;

/**
 * The Mamba-2 mixer that takes the place of attention (MaTVLM §3.2; Mamba-2, arXiv 2405.21060). Groups = heads,
 * state size = head size; x and B have the width of the KV heads and repeat to all heads.
 */
export class Mamba2Mixer {
  readonly kind = 'mamba';
  /** `in_proj` alone, [z | x | B | C | dt], which whoever calls `forward` applies. */
  readonly projections: readonly [ActivatedLinear];
  /** The output projection, `out_proj`, which whoever calls `forward` applies. */
  readonly output: Linear;
  readonly conv: { weight: Tensor; bias: Tensor };
  readonly dt_bias: Tensor;
  readonly A_log: Tensor;
  readonly D: Tensor;
  readonly norm: Tensor;
  private readonly heads: number;
  private readonly headSize: number;

  constructor(
    p: Parameters,
    private readonly c: MambaConfig,
  ) {
    this.heads = c.ssm_cfg.ngroups;
    this.headSize = c.d_inner / this.heads;
    const { d_model: d, d_inner: inner, d_xb: xb } = c;
    const channels = inner + 2 * xb;
    this.projections = [{ layer: new Linear(p.at('in_proj'), d, 2 * inner + 2 * xb + this.heads, c.is_bias) }];
    this.output = new Linear(p.at('out_proj'), inner, d, c.is_bias);
    this.conv = {
      weight: p.at('conv1d').get('weight', [channels, 1, CONV_WIDTH]),
      bias: p.at('conv1d').get('bias', [channels]),
    };
    this.dt_bias = p.get('dt_bias', [this.heads]);
    this.A_log = p.get('A_log', [this.heads]);
    this.D = p.get('D', [this.heads]);
    this.norm = p.at('norm').get('weight', [inner]);
  }

  /**
   * (B, L, d_inner) before the output projection, and the state after the last position of each row that is not padding.
   * @param projected what `projections` make of u (B, L, D)
   * @param past the state before, or a cache of it, which is brought up to date
   */
  forward(
    [projected]: readonly Tensor[],
    past: MambaState | RecurrentCache | null,
    padding: Padding | null = null,
  ): [Tensor, MambaState] {
    if (!(past instanceof RecurrentCache)) return this.scan(projected, past, padding);
    const held = past.state;
    if (held && projected.shape[1] === 1) return [this.step(projected, held), { kind: 'mamba', ...held }];
    const [y, after] = this.scan(projected, held && { kind: 'mamba', ...held }, padding);
    past.set(after.conv, after.ssm);
    return [y, after];
  }

  private scan(projected: Tensor, past: MambaState | null, padding: Padding | null): [Tensor, MambaState] {
    const b = projected.shape[0];
    const { d_inner: inner, d_xb: xb } = this.c;
    // 1. [z | x | B | C | dt] = W_in u
    const [z, xBC, dt] = split(projected, [inner, 2 * xb + inner, this.heads], -1);
    // 2. a causal depthwise convolution with SiLU over x|B|C
    const before = past?.conv ?? zeros(projected.backend, [b, CONV_WIDTH - 1, 2 * xb + inner]);
    const how = { activation: 'silu', layout: 'blc', initial: before } as const;
    const mixed = causalConv1d(xBC, this.convWeight(), this.conv.bias, how);
    const [x, B, C] = split(mixed, [xb, xb, inner], -1);
    // 3.–4. x and B repeat from the KV heads to all heads; the state space scan
    const { A_log, D, dt_bias } = this;
    const inputs = { x: this.toHeads(x), dt, A_log, B: this.toHeads(B), C: this.toHeads(C), D, dt_bias };
    const from = { initialState: past?.ssm };
    const [y, last] = ssdScan(inputs, from);
    const ssm = padding ? ssdScan({ ...inputs, dt: still(dt, padding) }, from)[1] : last;
    const conv = padding ? ownLast(cat([before, xBC], 1), CONV_WIDTH - 1, padding) : lastColumns(before, xBC);
    return [this.gated(y, z), { kind: 'mamba', conv, ssm }];
  }

  /** `scan` of one token, in place: the parts of the projection are read where they lie. */
  private step(projected: Tensor, { conv, ssm }: { readonly conv: Tensor; readonly ssm: Tensor }): Tensor {
    const { d_inner: inner, d_xb: xb } = this.c;
    const part = (of: Tensor, from: number, size: number) => ({ of, from, to: from + size });
    const xBC = part(projected, inner, 2 * xb + inner);
    const mixed = causalConv1dStep_(conv, xBC, this.convWeight(), this.conv.bias, { activation: 'silu' });
    const { A_log, D, dt_bias } = this;
    const y = ssdStep_(ssm, {
      x: part(mixed, 0, xb),
      B: part(mixed, xb, xb),
      C: part(mixed, 2 * xb, inner),
      dt: part(projected, xBC.to, this.heads),
      ...{ A_log, D, dt_bias },
    });
    return this.gated(y, slice(projected, -1, 0, inner));
  }

  private convWeight(): Tensor {
    return reshape(this.conv.weight, [this.conv.weight.shape[0], CONV_WIDTH]);
  }

  /** 5. Gate and norm by head. @param y (B, L, H, head size)  @param z (B, L, d_inner) */
  private gated(y: Tensor, z: Tensor): Tensor {
    const options = { groupSize: this.headSize, eps: NORM_EPS };
    return rmsNormGated(reshape(y, z.shape), z, this.norm, options);
  }

  /** (B, L, heads' width) → (B, L, H, head size), each KV head repeated for its group. */
  private toHeads(t: Tensor): Tensor {
    const [b, l, width] = t.shape;
    const own = width / this.headSize;
    const split = reshape(t, [b, l, own, this.headSize]);
    return own === this.heads ? split : repeatInterleave(split, this.heads / own, 2);
  }
}

/** The last K−1 columns of what went into the convolution so far. */
function lastColumns(before: Tensor, xBC: Tensor): Tensor {
  const keep = CONV_WIDTH - 1;
  if (xBC.shape[1] >= keep) return slice(xBC, 1, -keep);
  return slice(cat([before, xBC], 1), 1, -keep);
}
