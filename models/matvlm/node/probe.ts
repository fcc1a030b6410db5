import { execFile } from 'node:child_process';
import { isSoftwareAdapter } from '../../../engine/backends/webgpu/webgpu.ts';
import { packageRoot } from './package-root.ts';

/** A WebGPU adapter that Dawn would give. */
export interface Probed {
  readonly name: string;
  readonly software: boolean;
}

const SCRIPT = `
import { create } from 'webgpu';
const adapter = await create([]).requestAdapter({ powerPreference: 'high-performance' });
const { vendor, architecture, device, description } = adapter?.info ?? {};
console.log(adapter ? [vendor, architecture, device, description].filter(Boolean).join(' ') : '');
process.exit(0);
`;

/** A driver that takes longer hangs. */
const LIMIT = 20_000;

/**
 * Asks for an adapter in a process of its own: a driver that crashes, hangs or writes to the terminal does no harm.
 * @returns null where there is no adapter or no Dawn
 */
export function probeWebGpu(): Promise<Probed | null> {
  const args = ['--input-type=module', '-e', SCRIPT];
  return new Promise((done) => {
    execFile(process.execPath, args, { cwd: packageRoot(), timeout: LIMIT }, (_, stdout) => {
      const name = stdout.trim();
      done(name === '' ? null : { name, software: isSoftwareAdapter(name) });
    });
  });
}
