import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, cpus, loadavg, release, totalmem, type } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../models/matvlm/app/node/package-root.ts';

/** Where and with what a bench ran. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  /** Bytes. */
  readonly memory: number;
  readonly system: string;
  /** Processes that wanted to run over the last minute: above 0 at the start means that the machine is shared. */
  readonly load: number;
  readonly node: string;
  readonly v8: string;
  readonly packages: Readonly<Record<string, string>>;
  readonly date: string;
}

export function readMachine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memory: totalmem(),
    system: `${type()} ${release()}`,
    load: loadavg()[0],
    node: process.version,
    v8: process.versions.v8,
    packages: versions(['webgpu', 'tinybench']),
    date: new Date().toISOString(),
  };
}

export function describeMachine(m: Machine): string[] {
  const packages = Object.entries(m.packages).map(([name, version]) => `${name} ${version}`);
  return [
    `machine  ${m.cpu}, ${m.cores} cores, ${(m.memory / 2 ** 30).toFixed(0)} GiB, ${m.system}, load ${m.load.toFixed(1)}`,
    `software Node ${m.node} (V8 ${m.v8}), ${packages.join(', ')}, ${m.date.slice(0, 10)}`,
  ];
}

/** Installed versions, ours among them. */
function versions(names: readonly string[]): Record<string, string> {
  const read = (folder: string) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string };
  // Beside this package where it is installed, within it in a checkout.
  const folders = createRequire(join(packageRoot(), 'package.json')).resolve.paths('webgpu') ?? [];
  const found = names.flatMap((name) => {
    const folder = folders.map((path) => join(path, name)).find((path) => existsSync(join(path, 'package.json')));
    return folder ? [[name, read(folder).version] as const] : [];
  });
  return { matvlm: read(packageRoot()).version, ...Object.fromEntries(found) };
}
