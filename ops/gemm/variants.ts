import { convert } from '../../engine/backends/webgpu/convert.ts';
import type { GpuCaps, GpuPlanner, Launch } from '../../engine/backends/webgpu/launch.ts';
import { isPlain } from '../../engine/dtype.ts';
import { four, type GpuProduct, gpuProduct, launchTiles, levelsFor, range, sumOverK, type TileKernel } from './kernel.ts';
import { codedRows, DOT_THREADS, FEW_ROWS, launchDot } from './dot.ts';
import type { Product, ProductSlots } from './product.ts';
import { cheapest, tiled } from './tiles.ts';

/** A way to make products on a GPU. */
export interface Variant {
  readonly name: string;
  when(g: Product, caps: GpuCaps): boolean;
  launches(g: GpuProduct, device: GpuPlanner): readonly Launch[];
}

const fewRows = ({ M, transA }: Product, { maxInvocations }: GpuCaps) =>
  M <= FEW_ROWS && !transA && maxInvocations >= DOT_THREADS;

/** The first whose `when` holds makes the product. */
export const VARIANTS: readonly Variant[] = [
  { name: 'direct', when: ({ K }, { software }) => software || K === 0, launches: (g) => [launchTiles(g, direct(g))] },
  { name: 'dot', when: (g, caps) => g.transB && fewRows(g, caps), launches: (g) => [launchDot([g])] },
  { name: 'axpy', when: (g, caps) => !g.transB && fewRows(g, caps), launches: (g) => [launchTiles(withNarrowA(g), axpy(g))] },
  { name: 'tiles', when: () => true, launches: (g, device) => tiled(g, cheapest(g, device.caps), device) },
];

/** The product as launches: see `VARIANTS`. */
export function productOnGpu(g: Product, slots: ProductSlots, device: GpuPlanner): readonly Launch[] {
  const whole = gpuProduct(g, slots, device.caps);
  const { launches } = VARIANTS.find(({ when }) => when(whole, device.caps))!;
  if (whole.c.form === 'four' || isPlain(slots.c.dtype)) return launches(whole, device);
  // 16 bits are stored four elements at a time, which here would lie in two rows.
  const c = device.scratch(slots.c.shape);
  return [...launches(gpuProduct(g, { ...slots, c }, device.caps), device), convert(c, slots.c, device.caps)];
}

/**
 * The kernel of software adapters: 64 threads, each 4×4 of C in steps of four k, straight from storage. Without barriers
 * their compilers need a second instead of many, and a CPU's caches do the work of workgroup memory.
 */
function direct(g: GpuProduct): TileKernel {
  const fetched = (x: 'a' | 'b', r: string, alongK: boolean) =>
    range(4).map((i) => {
      const at = alongK ? `${r} + ${i}u, k` : `${r}, k + ${i}u`;
      return `    let ${x}${i} = fetch_${x}(${x}_base, ${at}, params.K);\n`;
    });
  const left = (m: number, k: number) => (g.transA ? `a${k}[${m}]` : `a${m}[${k}]`);
  const right = (k: number) => (g.transB ? `vec4<f32>(${four((j) => `b${j}[${k}]`)})` : `b${k}`);
  const step = [
    ...fetched('a', 'm', !g.transA),
    ...fetched('b', 'n', g.transB),
    ...range(4).map((k) => `    let r${k} = ${right(k)};\n`),
    ...range(16).map((i) => `    sum${i % 4} = fma(vec4<f32>(${left(i % 4, i >> 2)}), r${i >> 2}, sum${i % 4});\n`),
  ];
  const levels = levelsFor(g.K / 4);
  return {
    name: `direct${levels}`,
    threads: 64,
    tile: [32, 32],
    code: () => ({
      body:
        '  let m = row + t / 8u * 4u;\n  let n = column + t % 8u * 4u;\n' +
        sumOverK(4, levels, '0u', 4, step.join('')) +
        range(4).map((m) => `  put_c(c_base, m + ${m}u, n, sum${m});\n`).join(''),
    }),
  };
}

/** The product with A read an element at a time. */
const withNarrowA = (g: GpuProduct): GpuProduct => ({ ...g, a: { ...g.a, form: 'one' } });

/**
 * Few rows times [K,N]: 8 threads cover 32 columns, 32 groups of them (16 for eight rows, whose sums would not fit
 * otherwise) take every 32nd k; then a thread per row and four columns adds up the groups.
 */
function axpy(g: GpuProduct): TileKernel {
  const rows = codedRows(g);
  const groups = rows > 4 ? 16 : 32;
  const threads = groups * 8;
  const a = (m: number) => `load_a(a_base + min(${m}u, params.M - 1u) * params.K + k)`;
  const step =
    '    let w = fetch_b(b_base, n, k, params.K);\n' +
    range(rows).map((m) => `    sum${m} = fma(vec4<f32>(${a(m)}), w, sum${m});\n`).join('');
  const levels = levelsFor(g.K / groups);
  return {
    name: `axpy${rows}.${levels}`,
    threads,
    tile: [FEW_ROWS, 32],
    code: () => ({
      declarations: `var<workgroup> sums: array<array<vec4<f32>, ${threads}>, ${rows}>;\n`,
      body:
        '  let n = column + t % 8u * 4u;\n' +
        sumOverK(rows, levels, 't / 8u', groups, step) +
        range(rows).map((m) => `  sums[${m}][t] = sum${m};\n`).join('') +
        `  workgroupBarrier();\n  if (t < ${rows * 8}u) {\n    let m = t / 8u;\n    var v = vec4<f32>();\n` +
        `    for (var i = 0u; i < ${groups}u; i++) { v += sums[m][i * 8u + t % 8u]; }\n` +
        '    put_c(c_base, m, n, v);\n  }\n',
    }),
  };
}
