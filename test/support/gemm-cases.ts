import { productBy, type ProductAttrs } from '../../bench/gemm-by.ts';
import { apply } from '../../engine/apply.ts';
import { type Backend, elements } from '../../engine/backend.ts';
import type { GpuCaps } from '../../engine/backends/webgpu/launch.ts';
import type { DType } from '../../engine/dtype.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { plainProduct, type Product } from '../../ops/gemm/product.ts';
import { fits, tiled, type Tiling, TILES } from '../../ops/gemm/tiles.ts';
import { VARIANTS } from '../../ops/gemm/variants.ts';
import { random } from './agree.ts';

const LAYOUTS = [[false, false], [false, true], [true, false], [true, true]] as const;

/** Shapes of a product's operands. */
export const shapes = ({ M, N, K, transA, transB, batch }: Product) => ({
  a: [...batch, ...(transA ? [K, M] : [M, K])],
  b: [...batch, ...(transB ? [N, K] : [K, N])],
  bias: [N],
  addend: [M, N],
});

/** Every way to make a product. */
export const WAYS: readonly { name: string; op: ReturnType<typeof productBy>; takes(g: Product, caps: GpuCaps): boolean }[] = [
  ...VARIANTS.map(({ name, when, launches }) => ({
    name,
    op: productBy(launches),
    takes: (g: Product, caps: GpuCaps) => name === 'direct' || when(g, { ...caps, software: false }),
  })),
  ...TILES.flatMap((tile) =>
    [1, 3].map((splits) => {
      const tiling: Tiling = { tile, splits };
      const op = productBy((g, device) => tiled(g, tiling, device));
      return { name: `${tile.name} /${splits}`, op, takes: (_: Product, caps: GpuCaps) => fits(tile, caps) };
    }),
  ),
];

export interface ProductCase {
  readonly g: Product;
  readonly dtype: DType;
  readonly weights: DType;
  /** Whether a bias and an addend are added. */
  readonly added: boolean;
}

/** Each layout at even and odd sizes, long and short sums, few and many rows, batches, and formats. */
export function productCases(): ProductCase[] {
  const sizes = [[133, 71, 37], [140, 132, 76], [1, 70, 301], [3, 68, 300], [8, 64, 128], [7, 6, 0]];
  const all = sizes.flatMap(([M, N, K]) => LAYOUTS.map(([transA, transB]) => plainProduct(M, N, K, transA, transB)));
  const batched = LAYOUTS.map(([transA, transB]): Product => {
    const g = { ...plainProduct(5, 9, 12, transA, transB), batch: [2, 3] as const };
    return { ...g, strideA: [180, 60], strideB: [324, 108] };
  });
  const plain = [...all, ...batched].map((g, i): ProductCase => ({ g, dtype: 'f32', weights: 'f32', added: i % 2 === 0 && g.batch[1] === 1 }));
  const few = ([['f16', 648], ['bf16', 72]] as const).map(
    ([weights, K]): ProductCase => ({ g: plainProduct(3, 12, K, false, true), dtype: 'f32', weights, added: false }),
  );
  const halves = (['f16', 'bf16', 'int8', 'int4'] as const).flatMap((weights) =>
    [[1, 1344], [8, 320], [70, 192]].flatMap(([M, K]) =>
      [false, true].map((transB): ProductCase => ({ g: plainProduct(M, 128, K, false, transB), dtype: 'f16', weights, added: true })),
    ),
  );
  return [...plain, ...few, ...halves];
}

/** The product by an op of `WAYS`, or what `productBy` made. */
export function makeProduct(backend: Backend, op: ReturnType<typeof productBy>, { g, dtype, weights, added }: ProductCase): Tensor {
  const at = shapes(g);
  return scope(() => {
    const data = (shape: readonly number[], seed: number, of: DType) =>
      fromData(backend, random(elements(shape), seed), shape, of);
    const sums = added && { bias: data(at.bias, 3, dtype), addend: data(at.addend, 4, dtype) };
    const given = { a: data(at.a, 1, dtype), b: data(at.b, 2, weights), ...sums };
    const attrs: ProductAttrs = { ...g, dtype };
    return apply(op, given, attrs).c;
  });
}
