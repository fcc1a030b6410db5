import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import * as assert from 'uvu/assert';
import { freshFolder } from './folders.ts';

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

/** The built command line; tests run in the repository's folder. */
export const CLI = resolve('dist/cli.js');

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

/** Code to preload: system calls fail where `when` holds, which sees their `args` and the bytes `written` so far. */
export const failing = (method: string, code: string, when: string): string => `
import fs, { open } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
const handle = await open(process.execPath, 'r');
const target = ${method === 'write' ? 'Object.getPrototypeOf(handle)' : 'fs'};
await handle.close();
const call = target.${method};
let written = 0;
target.${method} = function (...args) {
  written += args[0].byteLength ?? 0;
  if (!(${when})) return call.apply(this, args);
  return Promise.reject(Object.assign(new Error('injected'), { code: '${code}' }));
};
syncBuiltinESMExports();`;

const heads = { num_attention_heads: 2, intermediate_size: 32 };
/** A configuration that trains in milliseconds: 16 × 16 images, two layers of 16. */
const MICRO = {
  ...{ model_type: 'tinyllava', connector_type: 'mlp2x_gelu', conv_version: 'short' },
  ...{ vision_feature_layer: -1, vision_feature_select_strategy: 'cls_patch' },
  vision_config: { image_size: 16, patch_size: 8, hidden_size: 16, num_hidden_layers: 1, ...heads },
  text_config: { vocab_size: 70, max_position_embeddings: 64, hidden_size: 16, num_hidden_layers: 2, ...heads },
};

/** Flags under which the tiny configuration is trained. */
export const MICRO_FLAGS = '--images 8 --batch 2 --backend wasm --no-final-eval';
/** A run of the tiny configuration. */
export const TRAIN = `train --model micro.json ${MICRO_FLAGS} --warmup 1`;

/** Arguments in one text are parted at its blanks. */
type Args = string | readonly string[];
type Options = Partial<CliOptions>;

/** A fresh folder with micro.json in it, and what tests do there. */
export function workplace() {
  const cwd = freshFolder([['micro.json', JSON.stringify(MICRO)]]);
  const path = (...parts: string[]) => join(cwd, ...parts);
  const read = (...parts: string[]) => readFileSync(path(...parts), 'utf8');
  const run = (args: Args, options: Options = {}) =>
    cli(typeof args === 'string' ? args.split(' ') : args, { cwd, ...options });
  return {
    cwd,
    path,
    read,
    write: (name: string, content: string | Uint8Array) => writeFileSync(path(name), content),
    has: (...parts: string[]) => existsSync(path(...parts)),
    run,
    /** Runs a command that must end well. */
    async ok(args: Args, options: Options = {}): Promise<Ended> {
      const ended = await run(args, options);
      assert.is(ended.code, 0, `matvlm ${String(args)}: ${ended.stderr}`);
      return ended;
    },
    /** Runs a command that must be refused with one line, the last one, that matches `says`. */
    async refused(args: Args, says: RegExp, code = 1, options: Options = {}): Promise<Ended> {
      const ended = await run(args, options);
      const what = `matvlm ${String(args)}: exit code ${ended.code}\n${ended.stderr}`;
      assert.is(ended.code, code, what);
      const errors = ended.stderr.split('\n').filter((line) => line.startsWith('error: '));
      assert.is(errors.length, 1, what);
      assert.match(errors[0], says);
      assert.is(ended.stderr.trimEnd().split('\n').at(-1), errors[0], 'the error is the last line');
      assert.not.match(ended.stderr, /^\s+at .*\.js/m, 'no stack');
      assert.not.match(ended.stderr, 'fault of matvlm', 'it is told as the mistake that it is');
      return ended;
    },
    /** The log of a run without what differs between runs: the time it took. */
    log: (...run: string[]): Record<string, unknown>[] =>
      read('runs', ...run, 'metrics.jsonl').trim().split('\n').map((line) => ({ ...JSON.parse(line), tokens_per_second: 0 })),
    /** Names of the checkpoints of a run, whole or not. */
    checkpoints: (...run: string[]) => readdirSync(path('runs', ...run)).filter((name) => name.includes('checkpoint')),
  };
}
