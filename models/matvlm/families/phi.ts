import * as v from 'valibot';
import type { Tensor } from '../../../engine/tensor.ts';
import { geluTanh } from '../../../ops/index.ts';
import type { Parameters } from '../../nn/parameters.ts';
import { LayerNorm, Linear, project } from '../../nn/layers.ts';
import type { AddResidual, Block, DecoderFamily, Mixing } from './family.ts';
import { decoderFields, positive } from './text-config.ts';

const rotary = { partial_rotary_factor: 0.5, rope_theta: 10000 };
const activations = ['gelu_new', 'gelu_pytorch_tanh'] as const;

const schema = v.looseObject({
  ...decoderFields(rotary, activations),
  model_type: v.optional(v.literal('phi'), 'phi'),
  layer_norm_eps: v.optional(positive, 1e-5),
  qk_layernorm: v.optional(v.literal(false), false),
});
type PhiConfig = v.InferOutput<typeof schema>;

/** One norm, mixer and MLP side by side: `y = x + mixer(h) + mlp(h)`, `h = LN(x)`. */
class PhiBlock implements Block {
  private readonly norm: LayerNorm;
  private readonly fc1: Linear;
  private readonly fc2: Linear;

  constructor(p: Parameters, c: PhiConfig) {
    this.norm = new LayerNorm(p.at('input_layernorm'), c.hidden_size, c.layer_norm_eps);
    this.fc1 = new Linear(p.at('mlp').at('fc1'), c.hidden_size, c.intermediate_size);
    this.fc2 = new Linear(p.at('mlp').at('fc2'), c.intermediate_size, c.hidden_size);
  }

  forward(x: Tensor, { projections, mix, output }: Mixing, addResidual: AddResidual): Tensor {
    const fc1 = { layer: this.fc1, activation: geluTanh };
    const projected = project(this.norm.forward(x), [...projections, fc1]);
    const inner = projected.pop()!;
    return addResidual(x, [[mix(projected), output], [inner, this.fc2]]);
  }
}

/** Phi-1.5 and Phi-2: partial rotary positions, biases everywhere, a head of its own. */
export const phi: DecoderFamily = {
  title: 'Phi',
  schema,
  rotary,
  activations,
  normEps: 'layer_norm_eps',
  attention: {
    at: 'self_attn',
    query: 'q_proj',
    key: 'k_proj',
    value: 'v_proj',
    output: 'dense',
    bias: true,
    outputBias: true,
  },
  mlp: 'mlp',
  residuals: ['self_attn.dense', 'mlp.fc2'],
  headBias: true,
  block: (p, c: PhiConfig) => new PhiBlock(p, c),
  finalNorm: (p, c: PhiConfig) => new LayerNorm(p.at('final_layernorm'), c.hidden_size, c.layer_norm_eps),
};
