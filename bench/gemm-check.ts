import { fits, TILES } from '../ops/gemm/select.ts';
import { gemmVariant } from '../ops/gemm/wgsl.ts';
import type { GemmCaps, GemmDType, GemmForce, GemmSpec, Tile } from '../ops/gemm/wgsl.ts';
import { bind, download, Pipelines, upload } from './gemm-device.ts';
import type { GemmDevice } from './gemm-device.ts';
import { extentOf, fromHalf, referenceGemm, toHalf } from './gemm-reference.ts';

/** Guard elements after each result: a kernel that writes past the end changes them. */
const GUARD = 64;

export interface CheckCase {
  spec: GemmSpec;
  force?: GemmForce;
}

/** A case in words. */
export function describe({ spec, force }: CheckCase): string {
  const { M, N, K, batch = [1, 1], transA, transB, ...rest } = spec;
  const cut = typeof force === 'object' ? `${force.tile.name} /${force.splits ?? 1}` : force;
  const layout = `${transA ? 'T' : 'N'}${transB ? 'T' : 'N'}`;
  return `${M}x${N}x${K} b${batch.join('x')} ${layout} ${cut ?? 'chosen'} ${JSON.stringify(rest)}`;
}

/** Pseudo-random numbers in [-1, 1) that halves hold exactly, the same on every run. */
function numbers(n: number, seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state >>> 16) % 512) / 256 - 1;
  });
}

const encode = (data: Float32Array, dtype: GemmDType = 'f32') =>
  dtype === 'f32' ? data : Uint16Array.from(data, (v) => toHalf(v));

const decode = (bytes: ArrayBuffer, dtype: GemmDType = 'f32') =>
  dtype === 'f32' ? new Float32Array(bytes) : Float32Array.from(new Uint16Array(bytes), fromHalf);

/** Runs a case on the device and returns the largest error over tolerance·(1 + |expected|); above 1 is a failure. */
export async function checkCase(gpu: GemmDevice, pipelines: Pipelines, test: CheckCase): Promise<number> {
  const { spec, force } = test;
  const data = {
    a: numbers(extentOf(spec, 'a'), 1),
    b: numbers(extentOf(spec, 'b'), 2),
    c: numbers(extentOf(spec, 'c') + GUARD, 3),
    bias: numbers(spec.N, 4),
  };
  const variant = gemmVariant(spec, gpu.caps, force);
  const buffers = {
    a: upload(gpu.device, encode(data.a, spec.a?.dtype)),
    b: upload(gpu.device, encode(data.b, spec.b?.dtype)),
    c: upload(gpu.device, encode(data.c, spec.c?.dtype)),
    bias: upload(gpu.device, encode(data.bias, spec.bias)),
    scratch: upload(gpu.device, new Float32Array(Math.max(variant.scratch, 4))),
  };
  const bound = await bind(gpu.device, pipelines, variant, buffers);
  const encoder = gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  bound.encode(pass);
  pass.end();
  gpu.device.queue.submit([encoder.finish()]);
  const got = decode(await download(gpu.device, buffers.c), spec.c?.dtype);
  const want = referenceGemm(spec, data.a, data.b, data.c, spec.bias && data.bias);
  for (const b of Object.values(buffers)) b.destroy();
  bound.destroy();
  return worst(got, want, spec);
}

function worst(got: ArrayLike<number>, want: Float64Array, spec: GemmSpec): number {
  const tolerance = spec.c?.dtype === 'f16' ? 2e-3 : 1e-6 * Math.sqrt(spec.K) + 2e-6;
  let error = 0;
  for (let i = 0; i < want.length; i++) {
    const e = Math.abs(got[i] - want[i]) / (tolerance * (1 + Math.abs(want[i])));
    error = Number.isNaN(e) ? Infinity : Math.max(error, e);
  }
  return error;
}

const LAYOUTS = [
  { transA: false, transB: false },
  { transA: false, transB: true },
  { transA: true, transB: false },
  { transA: true, transB: true },
];

/** Every tile on an odd size (scalar loads) and an even one (vec4), each layout, whole and split. */
function tileCases(tiles: readonly Tile[]): CheckCase[] {
  const sizes = [
    { M: 133, N: 71, K: 37 },
    { M: 140, N: 132, K: 76 },
  ];
  return tiles.flatMap((tile) =>
    LAYOUTS.flatMap((layout) =>
      sizes.flatMap((size) => [
        { spec: { ...size, ...layout }, force: { tile } },
        { spec: { ...size, ...layout, bias: 'f32' as const }, force: { tile, splits: 3 } },
      ]),
    ),
  );
}

/** Sizes, strides, epilogues and dtypes through the ordinary choice. */
function chosenCases(caps: GemmCaps): CheckCase[] {
  const base = { M: 40, N: 36, K: 20 };
  const specs: GemmSpec[] = [
    ...[1, 3, 8].flatMap((M) => [
      ...LAYOUTS.map((layout) => ({ M, N: 70, K: 301, ...layout, bias: 'f32' as const })),
      ...LAYOUTS.map((layout) => ({ M: 4 * M, N: 68, K: 300, ...layout })),
    ]),
    ...[1, 4, 17].map((n) => ({ M: 9, N: n, K: n })),
    ...(['relu', 'silu', 'gelu_tanh'] as const).map((epilogue) => ({ ...base, epilogue, bias: 'f32' as const })),
    ...LAYOUTS.map((layout) => ({ ...base, ...layout, batch: [2, 3] as const, accumulate: true, alpha: 0.125 })),
    { ...base, batch: [2, 3], b: { strides: [0, 720] }, a: { strides: [800, 0] } },
    { ...base, a: { ld: 24, offset: 8 }, b: { ld: 41, offset: 3 }, c: { ld: 44, offset: 4 } },
    { M: 1, N: 64, K: 100, batch: [2, 4], transB: true, b: { strides: [12800, 0] } },
    { M: 16, N: 24, K: 3000, transA: true },
  ];
  const halves = [false, true].flatMap((transB) => [
    { ...base, transB, a: { dtype: 'f16' as const }, b: { dtype: 'f16' as const }, bias: 'f16' as const },
    { ...base, transB, b: { dtype: 'f16' as const }, c: { dtype: 'f16' as const }, accumulate: true },
    { ...base, M: 1, K: 22, transB, a: { dtype: 'f16' as const }, b: { dtype: 'f16' as const } },
  ]);
  return [...specs, ...(caps.f16 ? halves : [])].map((spec) => ({ spec }));
}

/** Few rows, through both kernels for them. */
function skinnyCases(): CheckCase[] {
  return [1, 3, 8].flatMap((M) =>
    [false, true].flatMap((transB) => [
      { spec: { M, N: 70, K: 301, transB, bias: 'f32' as const }, force: 'skinny' as const },
      { spec: { M, N: 68, K: 300, transB }, force: 'skinny' as const },
    ]),
  );
}

/**
 * The cases to run: the choice on every layout, then, unless `brief`, each tile and the kernels for few rows by force.
 * Software adapters take seconds to compile each of these.
 */
export function checkCases({ caps }: GemmDevice, brief: boolean): CheckCase[] {
  if (brief) return chosenCases(caps);
  return [...chosenCases(caps), ...skinnyCases(), ...tileCases(TILES.filter((tile) => fits(tile, caps)))];
}
