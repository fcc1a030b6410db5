import { expectOneOf } from '../../engine/arguments.ts';
import type { Tensor } from '../../engine/tensor.ts';
import * as ofTwo from './binary.ts';
import * as ofOne from './unary.ts';

/* A module of its own: whoever imports it has all of these functions in his bundle. */
const { geluTanh: gelu_tanh, ...others } = ofOne;
const UNARY = { ...others, gelu_tanh };

export type UnaryName = keyof typeof UNARY;
export type BinaryName = keyof typeof ofTwo;
/** The names of all elementwise functions of one argument. */
export const unaryNames = Object.keys(UNARY) as UnaryName[];
/** The names of all elementwise functions of two arguments. */
export const binaryNames = Object.keys(ofTwo) as BinaryName[];

/** Applies the elementwise function of that name: floats of any shape → the same shape and dtype. */
export function unary(name: UnaryName, x: Tensor): Tensor {
  expectOneOf('unary', 'name', name, ...unaryNames);
  return UNARY[name](x);
}

/** Applies the elementwise function of that name to two tensors that broadcast. */
export function binary(name: BinaryName, a: Tensor, b: Tensor): Tensor {
  expectOneOf('binary', 'name', name, ...binaryNames);
  return ofTwo[name](a, b);
}
