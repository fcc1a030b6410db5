import { supportsVariant } from '../../../engine/backends/wasm/wasm.ts';
import { isSoftwareAdapter } from '../../../engine/backends/webgpu/webgpu.ts';
import { dawnGpu, dawnVersion, releaseDawn } from '../../../engine/node/dawn.ts';
import { allowRelaxedSimd } from '../../../engine/node/relaxed-simd.ts';
import { probeWebGpu } from '../node/probe.ts';
import { bytes, print, printJson } from './output.ts';

interface AdapterInfo {
  readonly name: string;
  readonly software: boolean;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
}

const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxStorageBuffersPerShaderStage',
] as const;

/** `matvlm devices` */
export async function devices(json: boolean): Promise<void> {
  const webgpu = await adapters();
  allowRelaxedSimd();
  const wasm = supportsVariant('relaxed') ? 'relaxed' : 'simd';
  const hardware = webgpu.some(({ software }) => !software);
  const chosen = hardware ? 'webgpu' : 'wasm';
  if (json)
    return printJson({ default: chosen, node: process.version, dawn: dawnVersion(), webgpu, wasm: { variant: wasm } });
  print(
    `webgpu     Dawn (npm webgpu ${dawnVersion()})` +
      (webgpu.length === 0 ? ': no adapter; install a Vulkan driver' : ''),
  );
  for (const line of webgpu.flatMap(describe)) print(line);
  print(`wasm       ${wasm === 'relaxed' ? 'relaxed SIMD' : 'SIMD128'}, one thread, up to 4 GB`);
  print('reference  readable JavaScript loops, slow');
  print(`default    ${chosen}`);
}

function describe({ name, software, features, limits }: AdapterInfo): string[] {
  const size = (key: string, limit: number) => (/Size$/.test(key) ? bytes(limit) : String(limit));
  return [
    `  ${name}${software ? ' (software)' : ''}`,
    `    features  ${features.join(' ')}`,
    `    limits    ${Object.entries(limits)
      .map(([key, limit]) => `${key} ${size(key, limit)}`)
      .join(', ')}`,
  ];
}

/** The adapters that Dawn gives for each preference, without repetition. */
async function adapters(): Promise<AdapterInfo[]> {
  if (!(await probeWebGpu())) return [];
  const gpu = await dawnGpu();
  const found = new Map<string, AdapterInfo>();
  for (const powerPreference of ['high-performance', 'low-power'] as const) {
    const adapter = await gpu?.requestAdapter({ powerPreference });
    if (!adapter) continue;
    const { vendor, architecture, device, description } = adapter.info;
    const name = [vendor, architecture, device, description].filter(Boolean).join(' ');
    const limits = Object.fromEntries(LIMITS.map((key) => [key, adapter.limits[key]]));
    const software = isSoftwareAdapter(name);
    found.set(name, { name, software, features: [...adapter.features].map(String).sort(), limits });
  }
  releaseDawn();
  return [...found.values()];
}
