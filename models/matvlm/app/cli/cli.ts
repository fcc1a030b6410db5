#!/usr/bin/env node
import { type Command, CommanderError } from 'commander';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { attach, CliCommand, type CommandSpec } from './command.ts';
import { describeError, EXIT, exitCode, oneLine } from './terminal/errors.ts';
import { isInterruption } from './terminal/interrupt.ts';
import { printPiece, sayError } from './terminal/output.ts';
import { flush, lostResults, quit } from './terminal/terminal.ts';
import { didYouMean } from '../../../nn/did-you-mean.ts';

interface Entry {
  readonly about: string;
  readonly load: () => Promise<{ default: CommandSpec }>;
}

/** Every command; its code is loaded only when it is called. */
const COMMANDS: Readonly<Record<string, Entry>> = {
  start: {
    about: 'distil a student from the shipped teacher, compare, report and serve',
    load: () => import('./commands/start.ts'),
  },
  devices: { about: 'list the backends of this machine', load: () => import('./commands/devices.ts') },
  train: { about: 'pre-train a vision-language model (a teacher)', load: () => import('./commands/train.ts') },
  tokenizer: {
    about: "build a tokenizer from the words of data sets, for a teacher of one's own images",
    load: () => import('./commands/tokenizer.ts'),
  },
  init: { about: 'make a student folder from a teacher, from its attention weights', load: () => import('./commands/init.ts') },
  distill: { about: 'distil a student from its teacher', load: () => import('./commands/distill.ts') },
  eval: { about: 'measure the accuracy of a model on data sets', load: () => import('./commands/eval.ts') },
  generate: { about: 'answer a question about an image', load: () => import('./commands/generate.ts') },
  serve: { about: 'serve a page on which to ask models about images', load: () => import('./commands/serve.ts') },
  info: { about: 'show configuration, parameters and cache sizes of a model', load: () => import('./commands/info.ts') },
  recipes: { about: 'list or copy the settings files that come with the package', load: () => import('./commands/recipes.ts') },
};

const FOOTER = `
Exit codes: 0 done, also when stopped by Ctrl-C, SIGTERM or SIGHUP, with the state saved, and when the reader of the
output has gone; 1 error, also results that a full disk took; 2 wrong usage; 130 second Ctrl-C.
NO_COLOR is honoured. "matvlm <command> --help" shows flags and examples.`;

async function program(argv: readonly string[]): Promise<Command> {
  const { packageVersion } = await import('../node/package-root.ts');
  const root = new CliCommand('matvlm')
    .description('Train and run hybrid Mamba–Transformer vision-language models on WebGPU, WASM or plain JavaScript.')
    .version(packageVersion())
    .option('--debug', 'show the stack of an error')
    .addHelpText('after', FOOTER);
  for (const [name, { about, load }] of Object.entries(COMMANDS)) {
    const command = root.command(name).description(about);
    if (argv.includes(name)) attach(command, (await load()).default);
  }
  root.command('bench').description('time ops and steps on the backends of this machine');
  root.on('command:*', ([name]: string[]) => {
    root.error(`unknown command "${name}"${didYouMean(name, root.commands.map((c) => c.name()))} (matvlm --help lists them)`);
  });
  for (const command of [root, ...root.commands]) {
    command.exitOverride().configureOutput({
      writeOut: printPiece,
      outputError: (text) => sayError(oneLine(text.replace(/^error: /, ''))),
    });
  }
  return root;
}

/** Runs the benchmarks, a program of their own that imports what the command line does not; gives its exit code. */
async function bench(args: readonly string[]): Promise<number> {
  const { packageRoot } = await import('../node/package-root.ts');
  const program = join(packageRoot(), 'dist', 'bench', 'bench.js');
  const child = spawn(process.execPath, [program, ...args], { stdio: 'inherit' });
  const [code] = (await once(child, 'close')) as [number | null];
  return code ?? EXIT.error;
}

/** Runs a command line and gives its exit code. */
async function main(argv: readonly string[]): Promise<number> {
  if (argv[0] === 'bench') return bench(argv.slice(1));
  const debug = argv.includes('--debug');
  try {
    const root = await program(argv);
    if (argv.length === 0) root.outputHelp();
    else await root.parseAsync(argv, { from: 'user' });
    return EXIT.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    if (isInterruption(error)) return EXIT.ok;
    sayError(describeError(error, debug));
    return exitCode(error);
  }
}

/** Ends the process; results that were lost make an error of what else went well. */
async function end(code: number): Promise<never> {
  await flush();
  const error = code === EXIT.ok ? lostResults() : null;
  if (error) sayError(error.message);
  await flush();
  quit(error ? EXIT.error : code);
}

await end(await main(process.argv.slice(2)));
