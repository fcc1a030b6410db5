import { type Access, type AccessForm, accessor } from '../../engine/access.ts';
import { type GpuCaps, grid1d, type Launch, MAX_GRID, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { linked } from '../common/library.ts';
import { activationsWgsl } from '../elementwise/activation.ts';
import type { Product, ProductSlots } from './product.ts';

/** An operand and how kernels access it: by fours where its rows can be moved as aligned groups of these. */
export interface Operand {
  readonly slot: Slot;
  readonly access: Access;
  readonly form: AccessForm;
}

/** A product on a device. */
export interface GpuProduct extends Product {
  readonly a: Operand;
  readonly b: Operand;
  readonly bias?: Operand;
  readonly addend?: Operand;
  readonly c: Operand;
}

export function gpuProduct(g: Product, { a, b, bias, addend, c }: ProductSlots, caps: GpuCaps): GpuProduct {
  const operand = (slot: Slot, columns: number, strides: readonly number[] = []): Operand => {
    const moved = [columns, ...(g.batch[0] * g.batch[1] > 1 ? strides : [])];
    return { slot, access: accessOf(slot.dtype, caps), form: moved.every((n) => n % 4 === 0) ? 'four' : 'one' };
  };
  return {
    ...g,
    a: operand(a, g.transA ? g.M : g.K, g.strideA),
    b: operand(b, g.transB ? g.K : g.N, g.strideB),
    ...(bias && { bias: { slot: bias, access: accessOf(bias.dtype, caps), form: 'one' } }),
    ...(addend && { addend: operand(addend, g.N) }),
    c: operand(c, g.N),
  };
}

export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** The four parts of something, each with its number. */
export const four = (part: (j: number) => string): string => range(4).map(part).join(', ');

/** K in so many parts of `kChunk`. */
export interface Split {
  readonly splits: number;
  readonly kChunk: number;
}

/** The bindings of operands, their slots, and what of a shader's key tells how they are accessed. */
function bind(operands: Readonly<Record<string, Operand | undefined>>) {
  const there = Object.entries(operands).flatMap(([name, o]) => (o ? [[name, o] as const] : []));
  const given = there.map(([name, { access, form }]) => [name, accessor(access, form)] as const);
  const key = given.map(([name, accessor]) => `${name}=${accessor.key}`).join();
  return { bindings: Object.fromEntries(given), slots: there.map(([, { slot }]) => slot), key };
}

/** Tiles of so many columns that results of N columns each take, side by side. */
export const tilesAcross = (N: readonly number[], columns: number): number =>
  N.reduce((sum, n) => sum + Math.ceil(n / columns), 0);

/** A kernel whose workgroups each make a tile of C, or of a part of K's sums for it. */
export interface TileKernel {
  /** All that the code depends on beside layout and formats of the operands. */
  readonly name: string;
  readonly threads: number;
  /** Rows and columns of the tile. */
  readonly tile: readonly [rows: number, columns: number];
  /**
   * WGSL: declarations, and the body of `main`. It sees thread `t`, the tile's `row` and `column`, the `part` of K, and
   * `a_base`, `b_base`, `c_base`, where the operands of its product begin.
   */
  code(products: readonly NamedProduct[]): { readonly declarations?: string; readonly body: string };
}

/** A product, and what its operands and sizes are called in WGSL. */
export interface NamedProduct extends GpuProduct {
  readonly names: Readonly<Record<'a' | 'b' | 'bias' | 'c' | 'N' | 'K', string>>;
}

/** The names are numbered from the second product on; an operand that an earlier one has, too, goes by that one's. */
function named(products: readonly GpuProduct[]): NamedProduct[] {
  const mark = (i: number) => (i === 0 ? '' : `${i}`);
  return products.map((g, i) => {
    const [a, c] = (['a', 'c'] as const).map((x) => mark(products.findIndex((other) => other[x].slot === g[x].slot)));
    const [b, bias] = [`b${mark(i)}`, `bias${mark(i)}`];
    return { ...g, names: { a: `a${a}`, b, bias, c: `c${c}`, N: `params.N${c}`, K: `params.K${a}` } };
  });
}

/** Products by the results that they are added up to. */
export function byResult(products: readonly NamedProduct[]): NamedProduct[][] {
  const results = new Set(products.map(({ names }) => names.c));
  return [...results].map((c) => products.filter(({ names }) => names.c === c));
}

/**
 * The launch of a kernel for all tiles of a product, and of others with its rows: of other columns of weights, or of
 * another A and B, which are added up in the same C.
 */
export function launchTiles(
  g: GpuProduct,
  kernel: TileKernel,
  split: Split = { splits: 1, kChunk: g.K },
  others: readonly GpuProduct[] = [],
): Launch {
  const [rows, columns] = kernel.tile;
  const products = named([g, ...others]);
  const results = byResult(products);
  const [down, across] = [Math.ceil(g.M / rows), tilesAcross(results.map(([{ N }]) => N), columns)];
  const layers = g.batch[0] * g.batch[1] * split.splits;
  const folded = Math.max(across, down, layers) > MAX_GRID;
  const operands = products.flatMap(({ names, a, b, bias }) => [[names.a, a], [names.b, b], [names.bias, bias]] as const);
  const reads = bind(Object.fromEntries([...operands, ['addend', g.addend]]));
  const writes = bind(Object.fromEntries(results.map(([{ names, c }]) => [names.c, c])));
  const activations = results.map(([{ activation }]) => activation);
  const layout = `${g.transA ? 'T' : 'N'}${g.transB ? 'T' : 'N'}${folded ? ' folded' : ''} ${activations}`;
  // `alpha`, which sums are multiplied with, is 1: without the product NVIDIA's compiler runs out of registers (128×128
  // tiles on an H100: 29 TFLOP/s in place of 40).
  const params: Record<string, number> = {
    ...{ M: g.M, N: g.N, K: g.K, batches: g.batch[0] * g.batch[1], batch_inner: g.batch[1] },
    ...{ splits: split.splits, k_chunk: split.kChunk, alpha: 1 },
    ...{ a_outer: g.strideA[0], a_inner: g.strideA[1], b_outer: g.strideB[0], b_inner: g.strideB[1] },
    ...Object.fromEntries(others.flatMap(({ N, K }, i) => [[`N${i + 1}`, N], [`K${i + 1}`, K]])),
  };
  const types = Object.keys(params).map((name) => [name, name === 'alpha' ? 'f32' : 'u32'] as const);
  return {
    shader: shader(`gemm.${kernel.name} ${layout} ${reads.key},${writes.key}`, () => {
      const { declarations = '', body } = kernel.code(products);
      const fetchers = new Set(products.flatMap((one) => [fetcher('a', one), fetcher('b', one)]));
      return {
        reads: reads.bindings,
        writes: writes.bindings,
        params: Object.fromEntries(types),
        code: linked(/* wgsl */ `${[...fetchers].join('')}${activationsWgsl(activations)}${results.map(putter).join('')}${declarations}
@compute @workgroup_size(${kernel.threads})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
${folded ? unfold(rows, columns) : '  let group = id;\n'}  let row = group.y * ${rows}u;
  let column = group.x * ${columns}u;
  let part = group.z / params.batches;
  let outer = group.z % params.batches / params.batch_inner;
  let inner = group.z % params.batches % params.batch_inner;
  let a_base = outer * params.a_outer + inner * params.a_inner;
  let b_base = outer * params.b_outer + inner * params.b_inner;
  let c_base = group.z * params.M * params.N;
${body}}`),
      };
    }),
    args: [...reads.slots, ...writes.slots],
    params: Object.values(params),
    grid: folded ? grid1d(across * down * layers, 1) : [across, down, layers],
  };
}

/**
 * WGSL that finds the tile and the layer of a workgroup in what `grid1d` made of a grid with a dimension that exceeds
 * its limit. Only there: an index from divisions costs large kernels a sixth of their rate (NVIDIA H100).
 */
const unfold = (rows: number, columns: number): string => /* wgsl */ `
  let tile = id.y * groups.x + id.x;
  let across = (params.N + ${columns - 1}u) / ${columns}u;
  let down = (params.M + ${rows - 1}u) / ${rows}u;
  let group = vec3<u32>(tile % across, tile / across % down, tile / (across * down));
  if (group.z >= params.batches * params.splits) { return; }
`;

/**
 * `fetch_x(base, r, k, k_end)`: four elements, or eight, of operand x, where r runs along M (of A) or N (of B). Storage in which k
 * is contiguous gives k … k+3 of row r, the other kind r … r+3 of row k. Past `k_end` it gives zeros; past the last row
 * it repeats rows, whose results are never stored, so that no value needs a second test.
 */
function fetcher(x: 'a' | 'b', g: NamedProduct): string {
  const alongK = x === 'a' ? !g.transA : g.transB;
  const { [x]: name, K } = g.names;
  const rows = x === 'a' ? 'params.M' : g.names.N;
  const eight = g[x].form === 'eight';
  const type = eight ? 'mat2x4<f32>' : 'vec4<f32>';
  const head = `fn fetch_${name}(base: u32, r: u32, k: u32, k_end: u32) -> ${type} {\n  var v = ${type}();\n`;
  const tail = '  return v;\n}\n';
  if (g[x].form !== 'one') {
    const index = alongK ? `min(r, ${rows} - 1u) * ${K} + k` : `k * ${rows} + min(r, ${rows} - 4u)`;
    return `${head}  if (k < k_end) { v = load_${name}((base + ${index}) >> ${eight ? 3 : 2}u); }\n${tail}`;
  }
  if (alongK) {
    const part = (j: number) => `load_${name}(first + min(k + ${j}u, k_end - 1u))`;
    const inside = (j: number) => `  v[${j}] = select(0.0, ${part(j)}, k + ${j}u < k_end);\n`;
    return `${head}  let first = base + min(r, ${rows} - 1u) * ${K};\n${range(4).map(inside).join('')}${tail}`;
  }
  const parts = four((j) => `load_${name}(base + k * ${rows} + min(r + ${j}u, ${rows} - 1u))`);
  return `${head}  if (k < k_end) { v = vec4<f32>(${parts}); }\n${tail}`;
}

/**
 * `put_c(base, m, n, sum)` stores columns n … n+3 of row m, with all that is done to the sum, where they are within C.
 * @param products those that add up to the result
 */
function putter(products: readonly NamedProduct[]): string {
  const [{ names, activation, addend, c }] = products;
  const biases = products.flatMap((g) => (g.bias ? [`vec4<f32>(${four((j) => `load_${g.names.bias}(n + ${j}u)`)})`] : []));
  const added = (at: string) => (addend ? ` + load_addend(${at})` : '');
  const one = (j: number) => `  if (n + ${j}u < ${names.N}) { store_${names.c}(i + ${j}u, v[${j}]${added(`i + ${j}u`)}); }\n`;
  const v = activation ? `vec4<f32>(${four((j) => `activate_${activation}(u[${j}])`)})` : 'u';
  return (
    `fn put_${names.c}(base: u32, m: u32, n: u32, sum: vec4<f32>) {\n` +
    `  if (m >= params.M || n >= ${names.N}) { return; }\n` +
    `  let u = ${['sum * params.alpha', ...biases].join(' + ')};\n  let v = ${v};\n  let i = base + m * ${names.N} + n;\n` +
    `${c.form === 'four' ? `  store_${names.c}(i >> 2u, v${added('i >> 2u')});\n` : range(4).map(one).join('')}}\n`
  );
}

/** Steps whose products go into one sum before that goes into the next, where a walk over K has several levels. */
const BLOCK = 64;

/** Levels of sums for a walk of so many steps: one is enough for some hundred, and fastest. */
export function levelsFor(steps: number): 1 | 2 | 3 {
  if (steps <= 4 * BLOCK) return 1;
  return steps <= BLOCK * BLOCK * 4 ? 2 : 3;
}

/**
 * WGSL that walks k from `start` in steps and leaves `count` sums in sum0, sum1, …; `body` is the code of a step, which
 * adds to them. With more levels than one, BLOCK steps make a sum, BLOCK of these one of the next level, so that a long
 * K loses no digits.
 */
export function sumOverK(
  count: number,
  levels: 1 | 2 | 3,
  start: string,
  step: number,
  body: string,
  end = 'params.K',
): string {
  const each = (code: (i: number) => string) => range(count).map(code).join('');
  const walk = (level: number, end: string): string => {
    if (level === 1) return `  for (; k < ${end}; k += ${step}u) {\n${body}  }\n`;
    const far = `min(${end}, k + ${step * BLOCK ** (level - 1)}u)`;
    return (
      `  while (k < ${end}) {\n${each((i) => `  let before${level}_${i} = sum${i};\n  sum${i} = vec4<f32>();\n`)}` +
      `  let end${level} = ${far};\n${walk(level - 1, `end${level}`)}` +
      `${each((i) => `  sum${i} += before${level}_${i};\n`)}  }\n`
    );
  };
  return `${each((i) => `  var sum${i} = vec4<f32>();\n`)}  var k = ${start};\n${walk(levels, end)}`;
}
