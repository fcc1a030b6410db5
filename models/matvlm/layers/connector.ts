import { scope } from '../../../engine/scope.ts';
import type { Tensor } from '../../../engine/tensor.ts';
import { gelu } from '../../../ops/index.ts';
import type { Parameters } from '../../nn/parameters.ts';
import { Linear } from '../../nn/layers.ts';

/** `mlp2x_gelu`: two linear layers with an exact GELU between, from the tower's width to the decoder's. */
export class Connector {
  private readonly first: Linear;
  private readonly second: Linear;

  constructor(p: Parameters, visionSize: number, hiddenSize: number) {
    this.first = new Linear(p.at(0), visionSize, hiddenSize);
    this.second = new Linear(p.at(2), hiddenSize, hiddenSize);
  }

  /** (B, T, vision) → (B, T, hidden) */
  forward(x: Tensor): Tensor {
    return scope(() => this.second.forward(this.first.forward(x, { activation: gelu })));
  }
}
