import { type Address, at, type WasmPlanner } from '../../engine/backends/wasm/planner.ts';
import { byteLength, formatNumber, isPlain } from '../../engine/dtype.ts';
import type { HostArg } from '../../engine/op.ts';
import type { Slot } from '../../engine/plan.ts';
import { activationOnHost } from '../elementwise/activation.ts';

/** C[M,N] = op(A)·op(B) (+ bias) over up to two batch dimensions; a batch stride of 0 repeats that operand. */
export interface Product {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly transA: boolean;
  readonly transB: boolean;
  readonly batch: readonly [number, number];
  readonly strideA: readonly [number, number];
  readonly strideB: readonly [number, number];
  /** The elementwise function of that name is applied to product and bias, before the addend is added. */
  readonly activation?: string | undefined;
}

/** A plain product of matrices, no batch. */
export function plainProduct(M: number, N: number, K: number, transA: boolean, transB: boolean): Product {
  return { M, N, K, transA, transB, batch: [1, 1], strideA: [0, 0], strideB: [0, 0] };
}

/** A multiplication and an addition a term. */
export function productFlops({ M, N, K, batch: [outer, inner] }: Product): number {
  return 2 * outer * inner * M * N * K;
}

/** The product in loops; `addend` is laid out as c. */
export function productOnHost(
  g: Product,
  a: HostArg,
  b: HostArg,
  bias: HostArg | undefined,
  c: HostArg,
  addend?: HostArg,
): void {
  const [aRow, aStep] = g.transA ? [1, g.M] : [g.K, 1];
  const [bStep, bColumn] = g.transB ? [1, g.K] : [g.N, 1];
  const activate = g.activation === undefined ? (x: number) => x : activationOnHost(g.activation);
  let at = 0;
  for (let outer = 0; outer < g.batch[0]; outer++) {
    for (let inner = 0; inner < g.batch[1]; inner++) {
      const aBase = outer * g.strideA[0] + inner * g.strideA[1];
      const bBase = outer * g.strideB[0] + inner * g.strideB[1];
      for (let m = 0; m < g.M; m++) {
        for (let n = 0; n < g.N; n++) {
          let sum = bias ? bias.data[n] : 0;
          for (let k = 0; k < g.K; k++) {
            sum += a.data[aBase + m * aRow + k * aStep] * b.data[bBase + k * bStep + n * bColumn];
          }
          c.data[at] = addend ? activate(sum) + addend.data[at] : activate(sum);
          at++;
        }
      }
    }
  }
}

/** Operands of a product. */
export interface ProductSlots {
  readonly a: Slot;
  readonly b: Slot;
  /** (N), of products without batch. */
  readonly bias?: Slot | undefined;
  /** Laid out as c; on WebGPU only, where it costs no launch. */
  readonly addend?: Slot;
  readonly c: Slot;
}

/** Notes the calls of the C kernels that make the product, into an f32 c. They read b as it is stored. */
export function productOnWasm(g: Product, { a, b, bias, c }: ProductSlots, { k, sizes, scratch }: WasmPlanner): void {
  const widened = (stored: Slot): Address => {
    if (isPlain(stored.dtype)) return stored;
    const floats = scratch(4 * stored.size);
    k.widen(stored, floats, stored.size, formatNumber(stored.dtype));
    return floats;
  };
  const [left, added, format] = [widened(a), bias && widened(bias), formatNumber(b.dtype)];
  const transposed = [Number(g.transA), Number(g.transB)] as const;
  const batches = g.batch[0] * g.batch[1];
  // Batches that all have the same b are rows of one product.
  const rows = !g.transA && b.size === g.N * g.K && a.size === batches * g.M * g.K ? batches * g.M : g.M;
  const work = scratch(sizes.gemm_scratch(rows, g.N, g.K, transposed[0]));
  if (rows * g.N === c.size) {
    k.gemm(left, b, format, c, added, rows, g.N, g.K, ...transposed, 0, work);
    return;
  }
  const strides = [g.strideA[1], g.strideB[1], g.M * g.N] as const;
  for (let outer = 0; outer < g.batch[0]; outer++) {
    const aAt = at(left, 4 * outer * g.strideA[0]);
    const bAt = at(b, byteLength(b.dtype, outer * g.strideB[0]));
    const cAt = at(c, 4 * outer * g.batch[1] * g.M * g.N);
    k.gemm_batched(aAt, bAt, format, cAt, g.batch[1], ...strides, g.M, g.N, g.K, ...transposed, 0, work);
  }
}
