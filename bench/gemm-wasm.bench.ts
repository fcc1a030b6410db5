/**
 * f32 matrix product on one thread, ours with B in f16, too: our kernels against onnxruntime-web, taking turns in one
 * process, best of all runs. `(cd bench && npm ci) && node build.mjs && node dist/bench/gemm-wasm.bench.js`; on Node 20
 * add `--experimental-wasm-relaxed-simd` to see the relaxed binary as well.
 */
import { createRequire } from 'node:module';
import { Heap } from '../engine/backends/wasm/heap.ts';
import { formatNumber } from '../engine/dtype.ts';
import { type KernelVariant, loadKernels, supportsVariant } from '../wasm/loader.ts';
import { matmulModel } from './onnx.ts';

/** The part of onnxruntime-web that is used here; it is installed in bench/ alone. */
interface Ort {
  env: { wasm: { numThreads: number }; versions: { web?: string }; logLevel: string };
  Tensor: new (type: 'float32', data: Float32Array, dims: number[]) => unknown;
  InferenceSession: {
    create(model: Uint8Array, options: object): Promise<{ run(feeds: object): Promise<{ C: { data: Float32Array } }> }>;
  };
}

interface Contender {
  name: string;
  run(): Promise<void> | void;
  best: number;
}

/** [M, N, K]: the square of the target, then what a small student and its teacher multiply. */
const SHAPES = [
  [512, 512, 512],
  [1500, 128, 128],
  [1500, 512, 128],
  [1500, 128, 512],
  [1500, 420, 384],
  [1500, 60, 128],
  [1, 2560, 2560],
];
const ROUNDS = 8;
const ROUND_MS = 25;

function loadOrt(): Ort {
  const require = createRequire(new URL('../../bench/package.json', import.meta.url));
  try {
    return require('onnxruntime-web') as Ort;
  } catch {
    console.error('onnxruntime-web is not installed: run `npm ci` in bench/ first.');
    process.exit(1);
  }
}

function random(length: number): Float32Array {
  return Float32Array.from({ length }, () => Math.random() - 0.5);
}

async function ours(variant: KernelVariant, shape: number[], A: Float32Array, B: Float32Array): Promise<Contender[]> {
  const [M, N, K] = shape;
  const { memory, exports, heapBase } = await loadKernels({ variant });
  const heap = new Heap(memory, heapBase);
  const a = heap.alloc(A.byteLength);
  const b = heap.alloc(B.byteLength);
  const half = heap.alloc(B.length * 2);
  const c = heap.alloc(M * N * 4);
  const scratch = heap.alloc(exports.gemm_scratch(M, N, K, 0));
  new Float32Array(heap.memory.buffer, a, A.length).set(A);
  new Float32Array(heap.memory.buffer, b, B.length).set(B);
  exports.narrow(b, half, B.length, formatNumber('f16'));
  return ([['f32', b], ['f16', half]] as const).flatMap(([format, stored]) =>
    [0, 1].map((transB) => ({
      name: `${variant} ${format} ${transB ? 'A·Bᵀ' : 'A·B'}`,
      run: () => exports.gemm(a, stored, formatNumber(format), c, 0, M, N, K, 0, transB, 0, scratch),
      best: Infinity,
    })),
  );
}

async function theirs(ort: Ort, [M, N, K]: number[], A: Float32Array, B: Float32Array): Promise<Contender[]> {
  const a = new ort.Tensor('float32', A, [M, K]);
  const b = new ort.Tensor('float32', B, [K, N]);
  const options = { executionProviders: ['wasm'] };
  const constant = await ort.InferenceSession.create(matmulModel(M, N, K, B), options);
  const variable = await ort.InferenceSession.create(matmulModel(M, N, K), options);
  return [
    { name: 'ort, constant B', run: async () => void (await constant.run({ A: a })), best: Infinity },
    { name: 'ort, A·B', run: async () => void (await variable.run({ A: a, B: b })), best: Infinity },
  ];
}

async function round(contender: Contender): Promise<void> {
  const end = performance.now() + ROUND_MS;
  do {
    const start = performance.now();
    const pending = contender.run();
    if (pending) await pending;
    contender.best = Math.min(contender.best, performance.now() - start);
  } while (performance.now() < end);
}

const ort = loadOrt();
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'error';
const variants = (['simd', 'relaxed'] as const).filter(supportsVariant);
console.log(`GFLOP/s, one thread, best of ${ROUNDS} rounds; Node ${process.version}, onnxruntime-web 1.30`);
for (const shape of SHAPES) {
  const [M, N, K] = shape;
  const [A, B] = [random(M * K), random(K * N)];
  const contenders = (
    await Promise.all([...variants.map((v) => ours(v, shape, A, B)), theirs(ort, shape, A, B)])
  ).flat();
  for (let i = 0; i < ROUNDS; i++) for (const c of contenders) await round(c);
  const rates = contenders.map((c) => `${c.name} ${((2 * M * N * K) / c.best / 1e6).toFixed(1)}`);
  console.log(`${shape.join('×').padEnd(14)} ${rates.join('   ')}`);
}
