// Matrix products on WebGPU: which tile is fastest at the sizes of the model, and how fast are weights streamed?
// node build.mjs && node dist/bench/gemm-webgpu.bench.js [--tiles] [--rows] [--f16: the tiles' operands in 16 bits]
import { apply } from '../engine/apply.ts';
import { WebGpuBackend } from '../engine/backends/webgpu/webgpu.ts';
import { byteLength, type DType, WEIGHTS } from '../engine/dtype.ts';
import { dawnGpu, releaseDawn } from '../engine/node/dawn.ts';
import { Profiler } from '../engine/profiler.ts';
import { scope } from '../engine/scope.ts';
import { plainProduct, type Product } from '../ops/gemm/product.ts';
import { cheapest, fits, type Tiling, tiled, TILES } from '../ops/gemm/tiles.ts';
import { productOnGpu } from '../ops/gemm/variants.ts';
import { productBy } from './gemm-by.ts';
import { Inputs } from '../test/support/inputs.ts';

const TOKENS = 25_000;
const WIDTHS = [128, 384, 512];
/** Milliseconds of load that an idle GPU's clocks need. */
const WARM = 400;
const SPLITS = [4, 8, 16, 33, 66, 132, 264];

const backend = await WebGpuBackend.create(await dawnGpu());
const args = process.argv.slice(2);
const dtype: DType = args.includes('--f16') ? 'f16' : 'f32';

/** Median seconds on the GPU of calls that take about 8 ms together, once its clocks have risen. */
async function seconds(call: () => void): Promise<number> {
  const run = async (calls: number) => {
    const profiler = (backend.profiler = new Profiler());
    for (let i = 0; i < calls; i++) scope(call);
    await backend.sync();
    return profiler.rows().reduce((sum, { ms }) => sum + ms, 0) / calls / 1e3;
  };
  await run(1);
  const start = performance.now();
  let calls = 3;
  while (performance.now() - start < WARM) calls = Math.max(1, Math.min(400, Math.round(0.008 / (await run(calls)))));
  const times = [await run(calls), await run(calls), await run(calls)];
  return times.sort((x, y) => x - y)[1];
}

/** Seconds of a product of noise by each of several ops. */
async function compare(g: Product, a: DType, b: DType, ops: readonly ReturnType<typeof productBy>[]): Promise<number[]> {
  const data = new Inputs(backend, false);
  const [x, w] = data.run((t) => [
    t.stored(a, ...(g.transA ? [g.K, g.M] : [g.M, g.K])),
    t.stored(b, ...(g.transB ? [g.N, g.K] : [g.K, g.N])),
  ]);
  const times: number[] = [];
  for (const op of ops) times.push(await seconds(() => void apply(op, { a: x, b: w }, { ...g, dtype: a })));
  data.dispose();
  return times;
}

const byTiling = (choose: (...given: Parameters<typeof cheapest>) => Tiling) =>
  productBy((g, device) => tiled(g, choose(g, device.caps), device));

const label = ({ transA, transB, M, N, K }: Product) => `${transA ? 'T' : 'N'}${transB ? 'T' : 'N'} ${M}x${N}x${K}`.padEnd(19);

/** A line of GFLOP/s with a star at the best. */
function row(name: string, { M, N, K }: Product, times: readonly number[]): void {
  const best = Math.min(...times);
  const cells = times.map((t) => `${Math.round((2 * M * N * K) / t / 1e9)}${t === best ? '*' : ' '}`.padStart(8));
  console.log(name + cells.join(''));
}

/** Sizes of the model: linear layers forward (NT), input gradients (NN), weight gradients (TN), and two cubes. */
function shapes(): Product[] {
  const pairs = WIDTHS.flatMap((n) => WIDTHS.map((k) => [n, k]));
  return [
    ...[2048, 4096].flatMap((n) => [false, true].map((transB) => plainProduct(n, n, n, false, transB))),
    ...[true, false].flatMap((transB) => pairs.map(([N, K]) => plainProduct(TOKENS, N, K, false, transB))),
    ...pairs.map(([M, N]) => plainProduct(M, N, TOKENS, true, false)),
  ];
}

/** Parts of K that give 132 units two workgroups each. */
const splitsFor = ({ M, N }: Product, { bm, bn }: { bm: number; bn: number }) =>
  Math.max(1, Math.floor(264 / (Math.ceil(M / bm) * Math.ceil(N / bn))));

/** One line a shape, one column a tile, the last what is chosen. */
async function tileTable(): Promise<void> {
  const tiles = TILES.filter((t) => fits(t, backend.caps));
  tiles.forEach((t, i) => console.log(`tile ${i}: ${t.name}`));
  console.log(`${'GFLOP/s'.padEnd(19)}${tiles.map((_, i) => `tile ${i} `.padStart(8)).join('')}  chosen`);
  const ops = tiles.map((tile) => byTiling((g) => ({ tile, splits: g.transA ? splitsFor(g, tile) : 1 })));
  for (const g of shapes()) row(label(g), g, await compare(g, dtype, dtype, [...ops, byTiling(cheapest)]));
}

/** Weight gradients: the count of parts against the tile. */
async function splitTable(): Promise<void> {
  console.log(`\n${'GFLOP/s, K cut in'.padEnd(36)}${SPLITS.map((n) => `${n} `.padStart(8)).join('')}`);
  for (const width of WIDTHS) {
    const g = plainProduct(width, width, TOKENS, true, false);
    for (const tile of [0, 4, 7, 8].map((i) => TILES[i]).filter((t) => fits(t, backend.caps))) {
      const ops = SPLITS.map((splits) => byTiling(() => ({ tile, splits })));
      row(`${label(g)} ${tile.name.padEnd(16)}`, g, await compare(g, dtype, dtype, ops));
    }
  }
}

/** Decoding: few rows, bound by reading the weights. */
async function rowsTable(): Promise<void> {
  console.log('\nfew rows, GB/s of weights read');
  const chosen = productBy((g, device) => productOnGpu(g, { a: g.a.slot, b: g.b.slot, c: g.c.slot }, device));
  for (const format of WEIGHTS) {
    for (const [M, N, K] of [[1, 2560, 2560], [1, 10240, 2560], [1, 2560, 10240], [1, 51200, 2560], [8, 10240, 2560]]) {
      for (const transB of [true, false]) {
        const g = plainProduct(M, N, K, false, transB);
        const [time] = await compare(g, 'f32', format, [chosen]);
        const rate = Math.round(byteLength(format, N * K) / time / 1e9);
        console.log(`${label(g)} ${format.padEnd(4)} ${rate} GB/s, ${(time * 1e6).toFixed(1)} us`);
      }
    }
  }
}

console.log(`${backend.description}: ${JSON.stringify(backend.caps)}`);
if (!args.includes('--rows')) {
  await tileTable();
  await splitTable();
}
if (!args.includes('--tiles')) await rowsTable();
backend.dispose();
releaseDawn();
