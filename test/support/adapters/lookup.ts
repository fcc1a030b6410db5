import { embedding, gather, indexSelect, oneHot } from '../../../ops/index.ts';
import type { Adapters } from './types.ts';

export const lookupAdapters: Adapters = {
  embedding: ([weight, ids]) => embedding(weight, ids),
  gather: ([x, index], { dim }) => gather(x, dim, index),
  index_select: ([x, index], { dim }) => indexSelect(x, dim, index),
  one_hot: ([ids], { num_classes }) => oneHot(ids, num_classes),
};
