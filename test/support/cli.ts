import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** How a command ended. */
export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CliOptions {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Code that runs before the command line, to inject a fault. */
  readonly preload?: string;
  /** In a process group of its own, so that a test can send what a terminal sends. */
  readonly group?: boolean;
  /** Where the shell sends output, such as `>/dev/full`. */
  readonly redirect?: string;
  /** Sees the process once it runs. */
  readonly watch?: (child: ChildProcess) => void;
}

/** The built command line, beside the built tests. */
export const CLI = new URL('../cli.js', import.meta.url).pathname;

/** Runs the built command line as a user does; it is killed after 60 s. */
export function cli(args: readonly string[], options: CliOptions): Promise<Ended> {
  const { cwd, env = {}, preload, group = false, redirect, watch } = options;
  const node = preload ? ['--import', `data:text/javascript,${encodeURIComponent(preload)}`] : [];
  const line = [process.execPath, ...node, CLI, ...args];
  const [command, ...rest] = redirect ? ['sh', '-c', `exec "$@" ${redirect}`, 'sh', ...line] : line;
  const child = spawn(command, rest, {
    cwd,
    env: { ...process.env, NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 60_000,
    detached: group,
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (text) => (stdout += text));
  child.stderr.on('data', (text) => (stderr += text));
  watch?.(child);
  return new Promise((done) => child.on('close', (code) => done({ code, stdout, stderr })));
}

/** Code to preload: Ctrl-C at the moment at which what stderr has shown matches, however slow this machine is. */
export const interruptAt = (shown: RegExp): string => `
const write = process.stderr.write;
let shown = '';
process.stderr.write = function (text, ...rest) {
  const before = ${shown}.test(shown);
  if (!before && ${shown}.test(shown += text)) process.emit('SIGINT');
  return write.call(this, text, ...rest);
};`;

/** A configuration that trains in milliseconds: 16 × 16 images, two layers of 16. */
export const MICRO = {
  model_type: 'tinyllava',
  connector_type: 'mlp2x_gelu',
  conv_version: 'short',
  vision_feature_layer: -1,
  vision_feature_select_strategy: 'cls_patch',
  vision_config: {
    image_size: 16,
    patch_size: 8,
    hidden_size: 16,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    intermediate_size: 32,
  },
  text_config: {
    vocab_size: 70,
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 32,
    max_position_embeddings: 64,
  },
};

/** Flags under which the tiny configuration is trained. */
export const MICRO_FLAGS = ['--images', '8', '--batch', '2', '--backend', 'wasm', '--no-final-eval'];

/** A fresh folder with micro.json in it, deleted at the end of the process. */
export function workFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'matvlm-cli-'));
  writeFileSync(join(folder, 'micro.json'), JSON.stringify(MICRO));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
