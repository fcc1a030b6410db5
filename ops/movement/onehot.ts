import { expectWhole } from '../../engine/arguments.ts';
import { expectDType } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import type { Tensor } from '../../engine/tensor.ts';
import { cast } from '../elementwise/cast.ts';
import { eq } from '../elementwise/compare.ts';
import { arange } from '../elementwise/fill.ts';
import { unsqueeze } from './reshape.ts';

/** 1 at the place each id names and 0 elsewhere: i32 (…) → f32 (…, classes). An id out of range gives zeros. */
export function oneHot(ids: Tensor, classes: number): Tensor {
  expectDType('one_hot', 'ids', ids.dtype, 'i32');
  expectWhole('one_hot', 'classes', classes, 1);
  return scope(() => cast(eq(unsqueeze(ids, -1), arange(ids.backend, classes)), 'f32'));
}
