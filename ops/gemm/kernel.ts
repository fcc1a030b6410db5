import { type Access, accessor } from '../../engine/access.ts';
import { type GpuCaps, grid1d, type Launch, MAX_GRID, type Scalar, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf } from '../../engine/dtype.ts';
import type { Slot } from '../../engine/plan.ts';
import { activationWgsl } from '../elementwise/activation.ts';
import type { Product, ProductSlots } from './product.ts';

/** An operand and how kernels access it: `wide` where its rows can be moved as aligned groups of four. */
export interface Operand {
  readonly slot: Slot;
  readonly access: Access;
  readonly wide: boolean;
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
    return { slot, access: accessOf(slot.dtype, caps), wide: moved.every((n) => n % 4 === 0) };
  };
  return {
    ...g,
    a: operand(a, g.transA ? g.M : g.K, g.strideA),
    b: operand(b, g.transB ? g.K : g.N, g.strideB),
    ...(bias && { bias: { slot: bias, access: accessOf(bias.dtype, caps), wide: false } }),
    ...(addend && { addend: operand(addend, g.N) }),
    c: operand(c, g.N),
  };
}

export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** The four parts of something, each with its number. */
export const four = (part: (j: number) => string): string => range(4).map(part).join(', ');

const names = ['M', 'N', 'K', 'batches', 'batch_inner', 'splits', 'k_chunk', 'a_outer', 'a_inner', 'b_outer', 'b_inner'];

/** What every kernel of a product is told, beside its code. */
export const PARAMS: Readonly<Record<string, Scalar>> = Object.fromEntries(names.map((name) => [name, 'u32']));

/** K in so many parts of `kChunk`. */
export interface Split {
  readonly splits: number;
  readonly kChunk: number;
}

/** Values of `PARAMS`. */
export function paramsOf(g: Product, { splits, kChunk }: Split): number[] {
  return [g.M, g.N, g.K, g.batch[0] * g.batch[1], g.batch[1], splits, kChunk, ...g.strideA, ...g.strideB];
}

/** What is added to the product: the slots of the bias and the addend, where they are there. */
export const addedSlots = ({ bias, addend }: GpuProduct): Slot[] => [bias, addend].flatMap((o) => (o ? [o.slot] : []));

/** The bindings of operands, and what of a shader's key tells how they are accessed. */
export function bind(operands: Readonly<Record<string, Operand | undefined>>) {
  const given = Object.entries(operands).flatMap(([name, o]) => (o ? [[name, accessor(o.access, o.wide)] as const] : []));
  return { bindings: Object.fromEntries(given), key: given.map(([name, { key }]) => `${name}=${key}`).join() };
}

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
  code(): { readonly declarations?: string; readonly body: string };
}

/** The launch of a kernel for all tiles of a product. */
export function launchTiles(g: GpuProduct, kernel: TileKernel, split: Split = { splits: 1, kChunk: g.K }): Launch {
  const [rows, columns] = kernel.tile;
  const [down, across] = [Math.ceil(g.M / rows), Math.ceil(g.N / columns)];
  const layers = g.batch[0] * g.batch[1] * split.splits;
  const folded = Math.max(across, down, layers) > MAX_GRID;
  const reads = bind({ a: g.a, b: g.b, bias: g.bias, addend: g.addend });
  const writes = bind({ c: g.c });
  const layout = `${g.transA ? 'T' : 'N'}${g.transB ? 'T' : 'N'}${folded ? ' folded' : ''} ${g.activation ?? ''}`;
  return {
    shader: shader(`gemm.${kernel.name} ${layout} ${reads.key},${writes.key}`, () => {
      const { declarations = '', body } = kernel.code();
      return {
        reads: reads.bindings,
        writes: writes.bindings,
        params: PARAMS,
        code: /* wgsl */ `${fetcher('a', g)}${fetcher('b', g)}${putter(g)}${declarations}
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
${body}}`,
      };
    }),
    args: [g.a.slot, g.b.slot, ...addedSlots(g), g.c.slot],
    params: paramsOf(g, split),
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
 * `fetch_x(base, r, k, k_end)`: four elements of operand x, where r runs along M (of A) or N (of B). Storage in which k
 * is contiguous gives k … k+3 of row r, the other kind r … r+3 of row k. Past `k_end` it gives zeros; past the last row
 * it repeats rows, whose results are never stored, so that no value needs a second test.
 */
function fetcher(x: 'a' | 'b', g: GpuProduct): string {
  const alongK = x === 'a' ? !g.transA : g.transB;
  const rows = x === 'a' ? 'params.M' : 'params.N';
  const head = `fn fetch_${x}(base: u32, r: u32, k: u32, k_end: u32) -> vec4<f32> {\n  var v = vec4<f32>();\n`;
  const tail = '  return v;\n}\n';
  if (g[x].wide) {
    const index = alongK ? `min(r, ${rows} - 1u) * params.K + k` : `k * ${rows} + min(r, ${rows} - 4u)`;
    return `${head}  if (k < k_end) { v = load_${x}((base + ${index}) >> 2u); }\n${tail}`;
  }
  if (alongK) {
    const part = (j: number) => `load_${x}(first + min(k + ${j}u, k_end - 1u))`;
    const inside = (j: number) => `  v[${j}] = select(0.0, ${part(j)}, k + ${j}u < k_end);\n`;
    return `${head}  let first = base + min(r, ${rows} - 1u) * params.K;\n${range(4).map(inside).join('')}${tail}`;
  }
  const parts = four((j) => `load_${x}(base + k * ${rows} + min(r + ${j}u, ${rows} - 1u))`);
  return `${head}  if (k < k_end) { v = vec4<f32>(${parts}); }\n${tail}`;
}

/** `put_c(base, m, n, sum)` stores columns n … n+3 of row m, with all that is done to the sum, where they are within C. */
function putter(g: GpuProduct): string {
  const biased = g.bias ? `sum + vec4<f32>(${four((j) => `load_bias(n + ${j}u)`)})` : 'sum';
  const added = (at: string) => (g.addend ? ` + load_addend(${at})` : '');
  const one = (j: number) => `  if (n + ${j}u < params.N) { store_c(i + ${j}u, v[${j}]${added(`i + ${j}u`)}); }\n`;
  return (
    `${g.activation ? activationWgsl(g.activation) : ''}fn put_c(base: u32, m: u32, n: u32, sum: vec4<f32>) {\n` +
    '  if (m >= params.M || n >= params.N) { return; }\n' +
    `  let u = ${biased};\n  let v = ${g.activation ? `vec4<f32>(${four((j) => `activate(u[${j}])`)})` : 'u'};\n  let i = base + m * params.N + n;\n` +
    `${g.c.wide ? `  store_c(i >> 2u, v${added('i >> 2u')});\n` : range(4).map(one).join('')}}\n`
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
export function sumOverK(count: number, levels: 1 | 2 | 3, start: string, step: number, body: string): string {
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
  return `${each((i) => `  var sum${i} = vec4<f32>();\n`)}  var k = ${start};\n${walk(levels, 'params.K')}`;
}
