import { WEIGHTS } from '../../engine/dtype.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { layerNorm, linear, type LinearOptions } from '../../ops/index.ts';
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
