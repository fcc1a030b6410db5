import * as binary from '../../ops/elementwise/binary.ts';
import * as ofOne from '../../ops/elementwise/unary.ts';

const { geluTanh: gelu_tanh, ...others } = ofOne;
/** All elementwise functions of one argument, by torch's names. */
export const unary = { ...others, gelu_tanh };
/** All of two arguments. */
export { binary };

export type UnaryName = keyof typeof unary;
export const unaryNames = Object.keys(unary) as UnaryName[];
