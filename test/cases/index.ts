import { attention } from './attention.ts';
import type { Room } from './case.ts';
import { conv } from './conv.ts';
import { elementwise } from './elementwise.ts';
import { gemm } from './gemm.ts';
import { loss } from './loss.ts';
import { movement } from './movement.ts';
import { norm } from './norm.ts';
import { optim } from './optim.ts';
import { reduce } from './reduce.ts';
import { ssd } from './ssd.ts';

/** Every op that the package exports, by torch's name: what tests and the bench know of it. */
export const ROWS: Room = {
  ...{ ...elementwise, ...movement, ...reduce, ...gemm, ...norm },
  ...{ ...conv, ...attention, ...ssd, ...loss, ...optim },
};
