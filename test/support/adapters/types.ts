import type { Tensor } from '../../../engine/tensor.ts';

/** Calls one op as a golden case describes it: torch's name, inputs in order, attributes. */
export type Adapter = (inputs: Tensor[], attrs: Record<string, any>) => Tensor | Tensor[];
export type Adapters = Record<string, Adapter>;
