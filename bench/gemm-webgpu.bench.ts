// f32 GEMM on WebGPU, without the engine: is it right, and which tile is fastest at the sizes of the model?
// node dist/bench/gemm-webgpu.bench.js [--check [--brief]] [--time] [--f16] [--toggles=disable_robustness]
import { fits, TILES } from '../ops/gemm/select.ts';
import { gemmVariant } from '../ops/gemm/wgsl.ts';
import type { GemmForce, GemmSpec, Tile } from '../ops/gemm/wgsl.ts';
import { checkCase, checkCases, describe } from './gemm-check.ts';
import { bind, closeDevice, openDevice, Pipelines } from './gemm-device.ts';
import type { Bound, GemmDevice } from './gemm-device.ts';
import { extentOf } from './gemm-reference.ts';

const args = process.argv.slice(2);
const TOKENS = 25_000;
const WIDTHS = [128, 384, 512];
const NOISE = Float32Array.from({ length: 1 << 20 }, () => Math.random() - 0.5);
const SPLITS = [4, 8, 16, 33, 66, 132, 264];

async function check(gpu: GemmDevice): Promise<void> {
  const pipelines = new Pipelines(gpu.device);
  const cases = checkCases(gpu, args.includes('--brief'));
  const launches = cases.flatMap(({ spec, force }) => gemmVariant(spec, gpu.caps, force).launches);
  await Promise.all(launches.map((l) => pipelines.get(l)));
  let failures = 0;
  for (const test of cases) {
    const error = await checkCase(gpu, pipelines, test);
    if (error <= 1) continue;
    failures++;
    console.log(`wrong by ${error.toPrecision(3)} tolerances: ${describe(test)}`);
  }
  console.log(`${cases.length - failures} of ${cases.length} products right`);
  if (failures > 0) process.exitCode = 1;
}

/** Times variants on shared buffers, large enough for all of them. */
class Timer {
  readonly #gpu: GemmDevice;
  readonly #pipelines: Pipelines;
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #staging: GPUBuffer;
  readonly #pool = new Map<string, GPUBuffer>();

  constructor(gpu: GemmDevice) {
    this.#gpu = gpu;
    this.#pipelines = new Pipelines(gpu.device);
    this.#queries = gpu.device.createQuerySet({ type: 'timestamp', count: 2 });
    const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    this.#resolved = gpu.device.createBuffer({ size: 16, usage: QUERY_RESOLVE | COPY_SRC });
    this.#staging = gpu.device.createBuffer({ size: 16, usage: COPY_DST | MAP_READ });
  }

  /** A storage buffer of at least `elements` f32 of noise, kept and grown by name; zeros would flatter the clocks. */
  #buffer(name: string, elements: number): GPUBuffer {
    const size = Math.max(16, Math.ceil(elements / 4) * 16);
    const known = this.#pool.get(name);
    if (known && known.size >= size) return known;
    known?.destroy();
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
    const buffer = this.#gpu.device.createBuffer({ size, usage });
    for (let at = 0; at < size; at += NOISE.byteLength) {
      this.#gpu.device.queue.writeBuffer(buffer, at, NOISE, 0, Math.min(NOISE.length, (size - at) / 4));
    }
    this.#pool.set(name, buffer);
    return buffer;
  }

  /** Compiles everything at once: drivers do so on all cores. */
  async compile(cases: readonly { spec: GemmSpec; force?: GemmForce }[]): Promise<void> {
    const launches = cases.flatMap(({ spec, force }) => gemmVariant(spec, this.#gpu.caps, force).launches);
    await Promise.all(launches.map((l) => this.#pipelines.get(l)));
  }

  /** Seconds that `repeats` runs in one pass take, by the GPU's clock. */
  async #pass(bound: Bound, repeats: number): Promise<number> {
    const encoder = this.#gpu.device.createCommandEncoder();
    const timestampWrites = { querySet: this.#queries, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 };
    const pass = encoder.beginComputePass({ timestampWrites });
    for (let i = 0; i < repeats; i++) bound.encode(pass);
    pass.end();
    encoder.resolveQuerySet(this.#queries, 0, 2, this.#resolved, 0);
    encoder.copyBufferToBuffer(this.#resolved, 0, this.#staging, 0, 16);
    this.#gpu.device.queue.submit([encoder.finish()]);
    await this.#staging.mapAsync(GPUMapMode.READ);
    const [begin, end] = new BigUint64Array(this.#staging.getMappedRange().slice(0));
    this.#staging.unmap();
    return Number(end - begin) / 1e9;
  }

  /** Keeps the GPU busy for `ms`, so that its clocks are up. */
  async warm(ms: number): Promise<void> {
    const bound = await this.#bound({ M: 2048, N: 2048, K: 2048 });
    for (const start = performance.now(); performance.now() - start < ms; ) await this.#pass(bound, 8);
    bound.destroy();
  }

  async #bound(spec: GemmSpec, force?: GemmForce): Promise<Bound> {
    const variant = gemmVariant(spec, this.#gpu.caps, force);
    const elements = (x: 'a' | 'b' | 'c') => extentOf(spec, x) / (spec[x]?.dtype === 'f16' ? 2 : 1);
    return bind(this.#gpu.device, this.#pipelines, variant, {
      a: this.#buffer('a', elements('a')),
      b: this.#buffer('b', elements('b')),
      c: this.#buffer('c', elements('c')),
      scratch: this.#buffer('scratch', variant.scratch),
    });
  }

  /** Median seconds of one product: three passes of about 8 ms after one that sizes them. */
  async seconds(spec: GemmSpec, force?: GemmForce): Promise<number> {
    const bound = await this.#bound(spec, force);
    const once = (await this.#pass(bound, 3)) / 3;
    const repeats = Math.max(1, Math.min(400, Math.round(0.008 / once)));
    const times = [];
    for (let i = 0; i < 3; i++) times.push((await this.#pass(bound, repeats)) / repeats);
    bound.destroy();
    return times.sort((x, y) => x - y)[1];
  }
}

const gflops = ({ M, N, K }: GemmSpec, seconds: number) => (2 * M * N * K) / seconds / 1e9;

/** Sizes of the model: linear layers forward (NT), input gradients (NN), weight gradients (TN), and two cubes. */
function shapes(): GemmSpec[] {
  const pairs = WIDTHS.flatMap((n) => WIDTHS.map((k) => [n, k]));
  const cubes = [2048, 4096].flatMap((n) => [false, true].map((transB) => ({ M: n, N: n, K: n, transB })));
  return [
    ...cubes,
    ...pairs.map(([N, K]) => ({ M: TOKENS, N, K, transB: true })),
    ...pairs.map(([N, K]) => ({ M: TOKENS, N, K })),
    ...pairs.map(([M, N]) => ({ M, N, K: TOKENS, transA: true })),
  ];
}

const label = ({ M, N, K, transA, transB }: GemmSpec) =>
  `${transA ? 'T' : 'N'}${transB ? 'T' : 'N'} ${M}x${N}x${K}`.padEnd(19);

const cell = (value: number, best: boolean) => `${Math.round(value)}${best ? '*' : ' '}`.padStart(8);

function row(name: string, values: number[], tail = ''): void {
  const best = Math.max(...values);
  console.log(name + values.map((v) => cell(v, v === best)).join('') + tail);
}

/** One line a shape, one column a tile (K split as chosen for it), GFLOP/s; the last two columns are the choice. */
async function tileTable(gpu: GemmDevice, timer: Timer, extra: Partial<GemmSpec>): Promise<void> {
  const tiles = TILES.filter((t) => fits(t, gpu.caps));
  tiles.forEach((t, i) => console.log(`tile ${i}: ${t.name}`));
  const specs = shapes().map((shape) => ({ ...shape, ...extra }));
  const forceOf = (spec: GemmSpec, tile: Tile) => ({ tile, splits: spec.transA ? splitFor(spec, tile) : 1 });
  const forced = specs.flatMap((spec) => tiles.map((tile) => ({ spec, force: forceOf(spec, tile) })));
  const start = performance.now();
  await timer.compile([...forced, ...specs.map((spec) => ({ spec }))]);
  console.log(`compiled in ${((performance.now() - start) / 1000).toFixed(1)} s`);
  await timer.warm(600);
  console.log(`${'GFLOP/s'.padEnd(19)}${tiles.map((_, i) => `tile ${i} `.padStart(8)).join('')}  chosen`);
  for (const spec of specs) {
    const chosen = gemmVariant(spec, gpu.caps);
    const values = [];
    for (const tile of tiles) values.push(gflops(spec, await timer.seconds(spec, forceOf(spec, tile))));
    const own = gflops(spec, await timer.seconds(spec));
    row(label(spec), values, `  ${Math.round(own)} (${chosen.name} /${chosen.splits})`);
  }
}

/** Parts that give 132 units two workgroups each. */
const splitFor = ({ M, N }: GemmSpec, tile: { bm: number; bn: number }) =>
  Math.max(1, Math.floor(264 / (Math.ceil(M / tile.bm) * Math.ceil(N / tile.bn))));

/** Weight gradients: the count of parts against the tile. */
async function splitTable(gpu: GemmDevice, timer: Timer): Promise<void> {
  const tiles = [...new Set([0, 4, 7, 8].map((i) => TILES[i]))].filter((t) => fits(t, gpu.caps));
  console.log(`\n${'GFLOP/s, K cut in'.padEnd(36)}${SPLITS.map((n) => `${n} `.padStart(8)).join('')}`);
  for (const width of WIDTHS) {
    const spec: GemmSpec = { M: width, N: width, K: TOKENS, transA: true };
    for (const tile of tiles) {
      const values = [];
      for (const splits of SPLITS) values.push(gflops(spec, await timer.seconds(spec, { tile, splits })));
      row(`${label(spec)} ${tile.name.padEnd(16)}`, values);
    }
  }
}

/** Decoding: few rows, bound by reading the weights. */
async function skinnyTable(gpu: GemmDevice, timer: Timer): Promise<void> {
  console.log('\nfew rows, GB/s of weights read');
  const dtypes = gpu.caps.f16 ? (['f32', 'f16'] as const) : (['f32'] as const);
  for (const dtype of dtypes) {
    for (const [M, N, K] of [[1, 2560, 2560], [1, 10240, 2560], [1, 51200, 2560], [8, 10240, 2560]]) {
      for (const transB of [true, false]) {
        const spec: GemmSpec = { M, N, K, transB, b: { dtype } };
        const seconds = await timer.seconds(spec);
        const bytes = N * K * (dtype === 'f16' ? 2 : 4);
        const rate = Math.round(bytes / seconds / 1e9);
        console.log(`${label(spec)} ${dtype} ${rate} GB/s, ${Math.round(seconds * 1e6)} us`);
      }
    }
  }
}

const toggles = args.find((a) => a.startsWith('--toggles='))?.slice('--toggles='.length);
const gpu = await openDevice(undefined, toggles);
console.log(`${gpu.name}: ${JSON.stringify(gpu.caps)}`);
if (args.includes('--check')) await check(gpu);
if (args.includes('--time')) {
  const timer = new Timer(gpu);
  const half = { a: { dtype: 'f16' }, b: { dtype: 'f16' } } as const;
  await tileTable(gpu, timer, args.includes('--f16') ? half : {});
  await splitTable(gpu, timer);
  await skinnyTable(gpu, timer);
}
closeDevice(gpu);
