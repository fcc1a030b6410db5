import { WEIGHTS } from '../../engine/dtype.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { type Activation, layerNorm, linear, type LinearOptions, linears } from '../../ops/index.ts';
import type { Parameters } from './parameters.ts';

/** y = x·Wᵀ + b; weight (out, in), bias (out). */
export class Linear {
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(p: Parameters, inFeatures: number, outFeatures: number, bias = true) {
    this.weight = p.get('weight', [outFeatures, inFeatures], WEIGHTS);
    this.bias = bias ? p.get('bias', [outFeatures]) : null;
  }

  /** x (…, in) → (…, out) */
  forward(x: Tensor, options?: LinearOptions): Tensor {
    return linear(x, this.weight, this.bias, options);
  }
}

/** A linear layer with an elementwise function behind it, or none. */
export interface ActivatedLinear {
  readonly layer: Linear;
  readonly activation?: Activation;
}

/** What several layers make of the same x (…, in): (…, out) of each. */
export function project(x: Tensor, layers: readonly ActivatedLinear[]): Tensor[] {
  return linears(
    x,
    layers.map(({ layer: { weight, bias }, activation }) => ({ weight, bias, ...(activation && { activation }) })),
  );
}

/** Layer normalisation over the last dimension, with weight and bias. */
export class LayerNorm {
  readonly weight: Tensor;
  readonly bias: Tensor;

  constructor(
    p: Parameters,
    size: number,
    private readonly eps: number,
  ) {
    this.weight = p.get('weight', [size]);
    this.bias = p.get('bias', [size]);
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, this.eps);
  }
}
