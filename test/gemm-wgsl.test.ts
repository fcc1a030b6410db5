import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { checkCase, checkCases, describe } from '../bench/gemm-check.ts';
import { closeDevice, openDevice, Pipelines } from '../bench/gemm-device.ts';
import { DeviceError } from '../engine/errors.ts';
import { tileMemory, tileThreads } from '../ops/gemm/tile-wgsl.ts';
import { TILES } from '../ops/gemm/select.ts';
import { gemmVariant, packParams } from '../ops/gemm/wgsl.ts';
import type { GemmCaps, GemmForce, GemmSpec } from '../ops/gemm/wgsl.ts';

const H200: GemmCaps = { maxWorkgroupMemory: 49152, maxInvocations: 1024, f16: true };
const DEFAULTS: GemmCaps = { maxWorkgroupMemory: 16384, maxInvocations: 256 };
const square = { M: 512, N: 512, K: 512 };

test('code depends on layout and alignment, not on sizes', () => {
  const code = (spec: GemmSpec) => gemmVariant(spec, H200, { tile: TILES[0] }).launches[0];
  assert.equal(code(square).code, code({ M: 1024, N: 256, K: 128, batch: [2, 3] }).code);
  const variants: GemmSpec[] = [
    square,
    { ...square, transA: true },
    { ...square, transB: true },
    { ...square, K: 511 },
    { ...square, bias: 'f32' },
    { ...square, accumulate: true },
    { ...square, epilogue: 'silu' },
    { ...square, b: { dtype: 'f16' } },
    { ...square, c: { ld: 513 } },
  ];
  const launches = variants.map(code);
  assert.is(new Set(launches.map((l) => l.key)).size, variants.length, 'keys');
  assert.is(new Set(launches.map((l) => l.code)).size, variants.length, 'codes');
});

test('weight gradients split K and fill the device, large products do not', () => {
  for (const width of [128, 384, 512]) {
    const { launches, splits, scratch } = gemmVariant({ M: width, N: width, K: 25_000, transA: true }, H200);
    const groups = launches[0].grid.reduce((a, b) => a * b);
    assert.ok(launches.length === 2 && groups >= 120, `${width}: ${groups} workgroups`);
    assert.is(scratch, splits * width * width);
  }
  const plain = gemmVariant({ M: 4096, N: 4096, K: 4096 }, H200);
  assert.is(plain.launches.length, 1);
  assert.is(plain.scratch, 0);
});

test('what is chosen fits the limits', () => {
  const forward = { M: 25_000, N: 128, K: 384, transB: true };
  for (const spec of [square, forward, { M: 128, N: 128, K: 25_000, transA: true }]) {
    const { name } = gemmVariant(spec, DEFAULTS);
    const tile = TILES.find((t) => t.name === name)!;
    assert.ok(tileMemory(tile) <= 16384 && tileThreads(tile) <= 256, name);
  }
  assert.throws(() => gemmVariant(square, DEFAULTS, { tile: TILES[0] }), (e: Error) => e instanceof DeviceError);
});

test('a split K covers every k once', () => {
  for (const [K, splits] of [[25_000, 264], [25_000, 7], [17, 3], [16, 4]]) {
    const v = gemmVariant({ M: 128, N: 128, K, transA: true }, H200, { tile: TILES[0], splits });
    const chunk = v.launches[0].params.find((p) => p.name === 'k_chunk')!.value;
    assert.ok(chunk % TILES[0].bk === 0 && v.splits * chunk >= K && (v.splits - 1) * chunk < K, `${K} in ${v.splits}`);
  }
});

test('parameters are packed in order, four bytes each, within the uniform limit', () => {
  const { params } = gemmVariant({ ...square, alpha: 0.5 }, H200).launches[0];
  const view = new DataView(packParams(params));
  assert.is(view.getUint32(0, true), 512);
  assert.is(view.getFloat32((params.length - 1) * 4, true), 0.5);
  assert.ok(view.byteLength % 16 === 0 && view.byteLength <= 256);
});

test('bad sizes and missing f16 are refused', () => {
  const half: GemmSpec = { ...square, a: { dtype: 'f16' } };
  assert.throws(() => gemmVariant(half, DEFAULTS), (e: Error) => e instanceof DeviceError);
});

/** Every kernel of the generator once for each layout, with f16 and f32 operands. */
function everyKernel(): { spec: GemmSpec; force: GemmForce }[] {
  const layouts = [false, true].flatMap((transA) => [false, true].map((transB) => ({ transA, transB })));
  const forces: GemmForce[] = ['direct', ...TILES.flatMap((tile) => [{ tile }, { tile, splits: 3 }])];
  const sizes = [{ M: 128, N: 128, K: 128 }, { M: 127, N: 127, K: 127 }];
  const half = { dtype: 'f16' } as const;
  const types: Partial<GemmSpec>[] = [{}, { a: half, b: half, c: half, bias: 'f16' }];
  const specs = sizes.flatMap((size) => layouts.flatMap((l) => types.map((t) => ({ ...size, ...l, ...t }))));
  const rows = specs.filter((s) => !s.transA).flatMap((s) => [1, 2, 3, 8].map((M) => ({ ...s, M })));
  return [
    ...specs.flatMap((spec) => forces.map((force) => ({ spec, force }))),
    ...rows.map((spec) => ({ spec, force: 'skinny' as const })),
  ];
}

test('every kernel is valid WGSL', async () => {
  const gpu = await openDevice('null');
  const seen = new Set<string>();
  for (const { spec, force } of everyKernel()) {
    for (const { key, code } of gemmVariant(spec, H200, force).launches) {
      if (seen.has(key)) continue;
      seen.add(key);
      const { messages } = await gpu.device.createShaderModule({ code }).getCompilationInfo();
      assert.equal(messages.map((m) => `${key}:${m.lineNum}: ${m.message}`), []);
    }
  }
  assert.ok(seen.size > 400, `${seen.size} kernels`);
  closeDevice(gpu);
});

test('products agree with loops in float64 on the adapter', async () => {
  const gpu = await openDevice().catch((e: Error) => {
    if (e instanceof DeviceError) return undefined;
    throw e;
  });
  if (!gpu) return console.log('skipped: no adapter');
  const pipelines = new Pipelines(gpu.device);
  for (const c of checkCases(gpu, true)) {
    const error = await checkCase(gpu, pipelines, c);
    assert.ok(error <= 1, `${describe(c)}: ${error} tolerances`);
  }
  closeDevice(gpu);
});

test.run();
