import type { Launch } from '../../engine/backends/webgpu/launch.ts';
import { byResult, four, launchTiles, levelsFor, range, sumOverK } from './kernel.ts';
import type { GpuProduct, NamedProduct, TileKernel } from './kernel.ts';
import type { Product } from './product.ts';

/** Rows up to which the kernels that only stream B are taken. */
export const FEW_ROWS = 8;
export const DOT_THREADS = 256;

/** Rows of A that the code handles: M rounded up, so that few kernels are compiled. */
export const codedRows = ({ M }: Product): number => 2 ** Math.ceil(Math.log2(M));

const lanesOf = (products: readonly Product[]) => (products.every(({ K }) => K >= 256) ? 32 : 8);

/** Columns of a result that a workgroup makes. */
export const dotColumns = (products: readonly Product[]): number => DOT_THREADS / lanesOf(products);

/**
 * Few rows times [N,K] weights, of products of the same M that `launchTiles` takes: lanes of threads read one row of B
 * together, 16 bytes or four elements a thread, and keep one sum for each row of A; a thread per four results adds up
 * the lanes. Bound by reading B.
 */
export function launchDot(products: readonly GpuProduct[]): Launch {
  const eight = products.every(({ K, b }) => K % 8 === 0 && b.access.eight);
  const [first, ...others] = products.map((g): GpuProduct => (eight ? { ...g, b: { ...g.b, form: 'eight' } } : g));
  return launchTiles(first, dot([first, ...others]), undefined, others);
}

function dot(products: readonly GpuProduct[]): TileKernel {
  const rows = codedRows(products[0]);
  const lanes = lanesOf(products);
  const columns = dotColumns(products);
  const eight = products[0].b.form === 'eight';
  /** Elements that a lane reads at once, and how often in a step. */
  const [width, unroll] = [eight ? 8 : 4, eight && (rows > 2 || lanes < 32) ? 2 : 4];
  const step = lanes * width * unroll;
  const levels = levelsFor(Math.max(...products.map(({ K }) => K)) / step);
  const each = (code: (m: number) => string) => range(rows).map(code).join('');
  const reads = range(unroll).map((u) => ({ w: `w${u}`, at: u * lanes * width }));
  const fours = eight ? reads.flatMap(({ w, at }) => range(2).map((j) => ({ w: `${w}[${j}]`, at: at + 4 * j }))) : reads;

  /** Leaves the sums over K of one product in sum0, sum1, … */
  const walk = ({ names: { a, b, K } }: NamedProduct): string => {
    const weights = reads.map(({ w, at }) => `    let ${w} = fetch_${b}(b_base, n, k + ${at}u, ${K});\n`);
    const sums = fours.map(({ w, at }) =>
      each((m) => `    sum${m} = fma(${w}, fetch_${a}(a_base, ${m}u, k + ${at}u, ${K}), sum${m});\n`),
    );
    return sumOverK(rows, levels, `lane * ${width}u`, step, [...weights, ...sums].join(''), K);
  };

  /** Makes a tile of a result, the `group`-th from its first one, of the products that add up to it. */
  const result = (terms: readonly NamedProduct[], group: string): string => {
    const several = terms.length > 1;
    const walks = terms.map((term) => `{\n${walk(term)}${each((m) => `  total${m} += sum${m};\n`)}  }\n`);
    return (
      `  let first = ${group} * ${columns}u;\n  let n = first + t / ${lanes}u;\n` +
      (several ? each((m) => `  var total${m} = vec4<f32>();\n`) + walks.join('') : walk(terms[0])) +
      each((m) => `  sums[${m}][lane * ${columns}u + t / ${lanes}u] = dot(${several ? 'total' : 'sum'}${m}, vec4<f32>(1.0));\n`) +
      `  workgroupBarrier();\n  if (t < ${(rows * columns) / 4}u) {\n` +
      `    let m = t / ${columns / 4}u;\n    let four = t % ${columns / 4}u * 4u;\n    var v = vec4<f32>();\n` +
      `    for (var i = 0u; i < ${lanes}u; i++) {\n` +
      `      v += vec4<f32>(${four((j) => `sums[m][i * ${columns}u + four + ${j}u]`)});\n    }\n` +
      `    put_${terms[0].names.c}(c_base, m, first + four, v);\n  }\n`
    );
  };

  return {
    name: `dot${rows}x${lanes}.${levels}`,
    threads: DOT_THREADS,
    tile: [FEW_ROWS, columns],
    code(named) {
      const declarations = `var<workgroup> sums: array<array<f32, ${DOT_THREADS}>, ${rows}>;\n`;
      const lane = `  let lane = t % ${lanes}u;\n`;
      const results = byResult(named);
      if (results.length === 1) return { declarations, body: lane + result(results[0], 'group.x') };
      const bodies = results.map((terms, r) => {
        const end = `  let end${r + 1} = end${r} + (${terms[0].names.N} + ${columns - 1}u) / ${columns}u;\n`;
        return `${end}  if (group.x >= end${r} && group.x < end${r + 1}) {\n${result(terms, `(group.x - end${r})`)}  }\n`;
      });
      return { declarations, body: `${lane}  let end0 = 0u;\n${bodies.join('')}` };
    },
  };
}
