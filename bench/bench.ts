/**
 * Times ops and steps on every backend that is present and prints one table: `npx matvlm bench --help`.
 */
import { Command, Option } from 'commander';
import type { BackendKind } from '../engine/backend.ts';
import { MatvlmError } from '../engine/errors.ts';
import { describeMachine } from './machine.ts';
import { runPeers } from './peers.ts';
import { profileTable } from './profile.ts';
import { readReport, type Report, resultTable, writeReport } from './results.ts';
import { runBench } from './run.ts';

const KINDS: readonly BackendKind[] = ['webgpu', 'wasm', 'reference'];
/** What is timed unless it is asked for otherwise: what a user would run on, the fastest first. */
const DEFAULT: readonly BackendKind[] = ['webgpu', 'wasm'];

interface Flags {
  backend?: BackendKind[];
  filter?: string;
  quick?: boolean;
  profile?: boolean;
  json?: string;
  compare?: string;
  peers?: boolean;
}

const command = new Command('matvlm bench')
  .description('Times ops and training, distillation and decoding steps on the GPU, where there is one, and on WASM.')
  .addOption(
    new Option('--backend <kinds...>', 'on these, the reference and WebGPU on a software adapter included').choices([...KINDS]),
  )
  .option('--filter <text>', 'only cases whose name holds this')
  .option('--quick', 'the smaller cases, a few samples of each: a minute or so')
  .option('--profile', "also the profiler's tables of one step of each kind, on WASM and WebGPU")
  .option('--json <file>', 'write results as JSON')
  .option('--compare <file>', 'how many times as fast as in an earlier JSON')
  .option('--peers', 'only compare matrix products with onnxruntime-web, which is installed in bench/ first');

command.addHelpText(
  'after',
  '\nExamples:\n  $ matvlm bench --quick\n  $ matvlm bench --backend wasm --filter attention --json before.json',
);
command.exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : 2));

async function main(flags: Flags): Promise<void> {
  if (flags.peers) return runPeers();
  const before = flags.compare === undefined ? null : await readReport(flags.compare);
  const say = (text: string) => void (process.stderr.isTTY && process.stderr.write(`\x1b[2K\r${text}`));
  const backends = flags.backend ?? DEFAULT;
  const report = await runBench({ ...flags, backends, software: flags.backend !== undefined, say });
  say('');
  print(report, before);
  if (flags.json !== undefined) await writeReport(flags.json, report);
}

function print(report: Report, before: Report | null): void {
  for (const line of describeMachine(report.machine)) console.log(line);
  for (const [label, description] of Object.entries(report.backends)) console.log(`backend  ${label}: ${description}`);
  const warm = report.quick ? '20 ms' : '400 ms on a GPU, 100 ms on WASM, 50 ms on a software adapter, 10 ms on the reference';
  console.log(`warm-up  by time, a case: ${warm}; then batches of calls, one wait for the device a batch`);
  console.log('columns  time of one call; spread = median absolute deviation; rate by the time on the GPU where known\n');
  if (report.results.length === 0) console.log('no case: none has such a name, or all that do are too large for the backends');
  else console.log(resultTable(report.results, before));
  for (const profile of report.profiles) console.log(`\n${profileTable(profile)}`);
}

try {
  await main(command.parse().opts<Flags>());
} catch (error) {
  if (!(error instanceof MatvlmError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
