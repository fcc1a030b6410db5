import { expectWhole } from '../../engine/arguments.ts';
import type { Spec } from '../../engine/backend.ts';
import { expectDType } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { expectRank, expectShape, show } from '../common/shapes.ts';

export interface SsdAttrs {
  /** Tokens that a kernel may take in one piece; the result does not depend on it. */
  readonly chunkSize: number;
  /** Whether an initial state follows dt_bias. */
  readonly initial: boolean;
}

/** B batch, L tokens, H heads of P, G groups of B and C, N the size of the state. */
export interface SsdSizes {
  readonly batch: number;
  readonly length: number;
  readonly heads: number;
  readonly p: number;
  readonly groups: number;
  readonly n: number;
}

export function ssdSizes(x: Spec, b: Spec): SsdSizes {
  const [batch, length, heads, p] = x.shape;
  return { batch, length, heads, p, groups: b.shape[2], n: b.shape[3] };
}

const NAMES = ['x', 'dt', 'A_log', 'B', 'C', 'D', 'dt_bias', 'initialState'];
const MAX_STATE = 256;

/** @throws ShapeError, DTypeError or ArgumentError naming the argument */
export function checkSsd(inputs: readonly Spec[], attrs: SsdAttrs): SsdSizes {
  inputs.forEach((t, i) => expectDType('ssd_scan', NAMES[i], t.dtype, 'f32'));
  const [x, dt, aLog, b, c, d, bias, initial] = inputs;
  expectRank('ssd_scan', 'x', x, 4);
  expectRank('ssd_scan', 'B', b, 4);
  const s = ssdSizes(x, b);
  const { batch, length, heads, p, groups, n } = s;
  if (length < 1 || heads < 1 || p < 1) {
    throw new ShapeError(`ssd_scan: x has shape ${show(x.shape)}, expected at least one token, head and channel`);
  }
  if (heads % groups !== 0 || n < 1 || n > MAX_STATE) {
    throw new ShapeError(
      `ssd_scan: B has shape ${show(b.shape)}, expected groups that divide the ${heads} heads of x ` +
        `and N from 1 to ${MAX_STATE}`,
    );
  }
  expectShape('ssd_scan', 'dt', dt, [batch, length, heads]);
  expectShape('ssd_scan', 'B', b, [batch, length, groups, n]);
  expectShape('ssd_scan', 'C', c, b.shape);
  expectShape('ssd_scan', 'A_log', aLog, [heads]);
  expectShape('ssd_scan', 'D', d, [heads]);
  expectShape('ssd_scan', 'dt_bias', bias, [heads]);
  if (attrs.initial) expectShape('ssd_scan', 'initialState', initial, [batch, heads, p, n]);
  expectWhole('ssd_scan', 'chunkSize', attrs.chunkSize, 1);
  return s;
}
