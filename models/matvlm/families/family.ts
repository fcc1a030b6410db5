import type * as v from 'valibot';
import type { Tensor } from '../../../engine/tensor.ts';
import type { Parameters } from '../../nn/parameters.ts';
import type { ActivatedLinear, Linear } from '../../nn/layers.ts';
import type { Rotary, TextConfig } from './text-config.ts';

/** The names of an attention layer's weights, and which of them have biases. */
export interface AttentionWeights {
  /** What they stand below, in a layer. */
  readonly at: string;
  readonly query: string;
  readonly key: string;
  readonly value: string;
  readonly output: string;
  /** Whether query, key and value have biases. */
  readonly bias: boolean;
  readonly outputBias: boolean;
}

/** Adds to the residual stream (B, L, D) what linear layers make of their x, through residual dropout in training. */
export type AddResidual = (stream: Tensor, terms: readonly (readonly [x: Tensor, layer: Linear])[]) => Tensor;

/** What mixes the tokens of a layer in one pass, attention or Mamba-2, between linear layers on either side. */
export interface Mixing {
  /** What h (B, L, D) goes through first. */
  readonly projections: readonly ActivatedLinear[];
  /** Makes of what they gave what goes through `output`; to be called once. */
  mix(projected: readonly Tensor[]): Tensor;
  /** Gives what is added to the residual stream. */
  readonly output: Linear;
}

/** A layer without its mixer: norms, MLP, and how residuals go around them. */
export interface Block {
  /** @param x (B, L, D), the residual stream  @returns (B, L, D) */
  forward(x: Tensor, mixer: Mixing, addResidual: AddResidual): Tensor;
}

/** A normalisation of the last dimension. */
export interface Norm {
  forward(x: Tensor): Tensor;
}

/** All that tells one family of decoders from another. Adding one is a file and its line in the registry. */
export interface DecoderFamily {
  /** What people call it. */
  readonly title: string;
  /** Checks `text_config` and fills in what the family's files leave out. */
  readonly schema: v.GenericSchema<unknown, TextConfig> & { readonly entries: Readonly<Record<string, unknown>> };
  /** Rotary settings where a file is silent. */
  readonly rotary: Rotary;
  /** Names of the activation that its MLP has. */
  readonly activations: readonly string[];
  /** The field that holds the norms' epsilon, here and in `mamba_config.json`. */
  readonly normEps: string;
  readonly attention: AttentionWeights;
  /** What the MLP's weights stand below, in a layer. */
  readonly mlp: string;
  /** The linear layers whose output is added to the residual stream, by their names in a layer. */
  readonly residuals: readonly string[];
  readonly headBias: boolean;
  /** A layer's own parameters, without those of its mixer. @param p those below the layer */
  block(p: Parameters, c: TextConfig): Block;
  /** The norm behind the last layer. @param p those below `model` */
  finalNorm(p: Parameters, c: TextConfig): Norm;
}
