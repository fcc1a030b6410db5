import { reshape, unary, unaryNames } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const unaryAdapters: Adapters = {
  ...Object.fromEntries(unaryNames.map((name) => [name, ([x]) => unary(name, x)] satisfies [string, Adapters[string]])),
  reshape: ([x], { shape }) => reshape(x, shape),
};
