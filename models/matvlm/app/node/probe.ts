import { execFile } from 'node:child_process';
import { isSoftwareAdapter } from '../../../../engine/backends/webgpu/device.ts';
import { DAWN_FLAGS } from '../../../../engine/node/dawn.ts';
import { packageRoot } from './package-root.ts';

/** A WebGPU adapter that Dawn would give. */
export interface ProbedAdapter {
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
];

const SCRIPT = `
import { create } from 'webgpu';
const [flags, limits] = process.argv.slice(1).map((text) => JSON.parse(text));
const gpu = create(flags);
const adapters = [];
for (const powerPreference of ['high-performance', 'low-power']) {
  const adapter = await gpu.requestAdapter({ powerPreference });
  if (!adapter) continue;
  const { vendor, architecture, device, description } = adapter.info;
  adapters.push({
    name: [vendor, architecture, device, description].filter(Boolean).join(' '),
    features: [...adapter.features].sort(),
    limits: Object.fromEntries(limits.map((key) => [key, adapter.limits[key]])),
  });
}
console.log(JSON.stringify(adapters));
process.exit(0);
`;

/** A driver that takes longer hangs. */
const LIMIT = 20_000;

/**
 * Asks for adapters in a process of its own: a driver that crashes, hangs or writes to the terminal does no harm.
 * @returns the adapter of high performance, which a backend takes, and that of low power where it is another; none
 * where there is no adapter or no Dawn
 */
export function probeWebGpu(): Promise<ProbedAdapter[]> {
  const args = ['--input-type=module', '-e', SCRIPT, JSON.stringify(DAWN_FLAGS), JSON.stringify(LIMITS)];
  return new Promise((done) => {
    execFile(process.execPath, args, { cwd: packageRoot(), timeout: LIMIT }, (error, stdout) => {
      const found = error ? [] : (JSON.parse(stdout) as Omit<ProbedAdapter, 'software'>[]);
      const byName = new Map(found.map((adapter) => [adapter.name, adapter]));
      done([...byName.values()].map((adapter) => ({ ...adapter, software: isSoftwareAdapter(adapter.name) })));
    });
  });
}
