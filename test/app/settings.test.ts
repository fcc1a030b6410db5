// What flags and settings files may say: every option of every command against values that it cannot mean.
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MatvlmError } from '../../engine/errors.ts';
import { ALIASES } from '../../models/matvlm/app/cli/options/aliases.ts';
import { attach, CliCommand, type CommandSpec } from '../../models/matvlm/app/cli/command.ts';
import devices from '../../models/matvlm/app/cli/commands/devices.ts';
import distill from '../../models/matvlm/app/cli/commands/distill.ts';
import { UsageError } from '../../models/matvlm/app/cli/terminal/errors.ts';
import evaluate from '../../models/matvlm/app/cli/commands/eval.ts';
import generate from '../../models/matvlm/app/cli/commands/generate.ts';
import info from '../../models/matvlm/app/cli/commands/info.ts';
import init from '../../models/matvlm/app/cli/commands/init.ts';
import { dashed, type OptionTable, resolve, type Settings } from '../../models/matvlm/app/cli/options/options.ts';
import recipes from '../../models/matvlm/app/cli/commands/recipes.ts';
import serve from '../../models/matvlm/app/cli/commands/serve.ts';
import { toYaml, yamlLayer } from '../../models/matvlm/app/cli/options/settings-file.ts';
import start from '../../models/matvlm/app/cli/commands/start.ts';
import tokenizer from '../../models/matvlm/app/cli/commands/tokenizer.ts';
import train from '../../models/matvlm/app/cli/commands/train.ts';
import { type Kind, rejects, throws } from '../support/expect.ts';
import { freshFolder } from '../support/folders.ts';

const COMMANDS = { start, devices, train, tokenizer, init, distill, eval: evaluate, generate, serve, info, recipes };
const folder = freshFolder();

/** The settings that a command line gives. */
async function parsed(spec: CommandSpec, args: string): Promise<Settings<OptionTable>> {
  let settings: Settings<OptionTable> | null = null;
  const command = new CliCommand('test').exitOverride().configureOutput({ writeErr: () => {} });
  attach(command, { ...spec, args: [], run: async (context) => void (settings = context.settings()) });
  await command.parseAsync(args.split(' '), { from: 'user' });
  return settings!;
}

async function refused(spec: CommandSpec, args: string, says: RegExp, kind: Kind = Error): Promise<void> {
  await rejects(parsed(spec, args), kind, says, args);
}

const flags = suite('flags');

/** What no option of a kind can mean, by how help shows its value. */
const NONSENSE: Readonly<Record<string, readonly unknown[]>> = {
  '<n>': [-1, 1.5, NaN, Infinity, -Infinity, 2 ** 53, '3', true, [3], {}],
  '<number>': [-1, NaN, Infinity, -Infinity, 1e39, 1e-46, '3', true, [3], {}],
  '<n,n,…>': [[], [-1], [1.5], [NaN], ['1'], 3, '3', [[3]], {}],
  text: ['', 'a\0b', 3, true, ['a'], {}],
  texts: [[], [''], ['a\0b'], ['a', 'a'], 'a', [3], [['a']], {}],
  switch: [0, 1, 'yes', 'true', '', [], {}],
};

function nonsenseFor(option: OptionTable[string]): readonly unknown[] {
  const { argument } = option;
  if (!argument) return NONSENSE.switch;
  if (argument in NONSENSE) return NONSENSE[argument];
  return Array.isArray(option.parse('a')) ? NONSENSE.texts : NONSENSE.text;
}

for (const [name, { table }] of Object.entries(COMMANDS)) {
  for (const [key, option] of Object.entries(table)) {
    flags(`${name} --${dashed(key)} refuses what it cannot mean`, () => {
      const given = (value: unknown) => resolve(table, [{ values: new Map([[key, value]]), where: (k) => `--${k}` }]);
      for (const value of nonsenseFor(option)) {
        throws(() => given(value), UsageError, new RegExp(`^--${key}: `), `${key}: ${String(value)}`);
      }
      const { fallback } = option;
      if (fallback !== null && fallback !== '') assert.equal(given(fallback)[key], fallback);
    });
  }
}

const REFUSED: readonly (readonly [spec: CommandSpec, args: string, says: RegExp])[] = [
  [train, '--lr 1 --lr 1', /^--lr is given twice/],
  [train, '-c a.yaml --config a.yaml', /--config is given twice/],
  [train, '--augment --no-augment', /--augment and --no-augment contradict/],
  [distill, '--layers 0,0', /--layers: 0 is given twice/],
  [distill, '--data sort-of-clevr,sort-of-clevr', /--data: sort-of-clevr is given twice/],
  [distill, '--layers 0 --ratio 0.5', /--ratio has no effect: the layers are given, 0/],
  [init, '--layers 0 --ratio 0.5', /--ratio has no effect/],
  ...['--layers 0', '--ratio 0.5', '--init random', '--bias', '--identity-conv'].map(
    (flag) => [distill, `--student x ${flag}`, /has no effect: --student x is made already/] as const,
  ),
  [distill, '--kl-weight 0 --loss kl', /--loss has no effect: --kl-weight is 0/],
  [distill, '--loss ce --temperature 2', /--temperature has no effect: --loss ce/],
  [distill, '--layer-weight 0 --layer-loss sl', /--layer-loss has no effect/],
  [train, '--eval-images 3', /--eval-images has no effect/],
  [generate, '--prompt x --top-k 3', /--top-k has no effect: at --temperature 0/],
  [generate, '--prompt x --max-new-tokens 0', /--max-new-tokens: expected a whole number from 1, got 0/],
  [generate, '--prompt x --temperature 101', /--temperature: expected a number from 0 to 100/],
  [generate, '--prompt x --top-p 0', /--top-p: expected a number above 0 to 1/],
  [generate, '--prompt x --repetition-penalty 0.001', /--repetition-penalty: expected a number from 0.01 to 100, got 0.001$/],
  [start, '--full --recipe x', /--full has no effect: --recipe x/],
  [start, '--no-serve --port 3', /--port has no effect/],
  [train, '--accumulate 1000000000', /--accumulate: expected a whole number from 1 to 4096/],
  [train, '--steps 1.5', /--steps: expected a whole number from 1, got 1.5/],
  [train, '--lr 1e400', /--lr: expected a number above 0, got Infinity$/],
  [train, '--eps Infinity', /--eps: expected a number above 0, got Infinity$/],
  [train, '--betas 1,1', /--betas: expected .* from 0 and below 1, got \[1,1\]$/],
  [train, '--data ,', /--data: expected a list of texts, none of them empty, got \["",""\]$/],
  [train, '--qqqqqq', /unknown option --qqqqqq; "matvlm test --help" lists them/],
];

flags('what is given twice, contradicts, is out of range or would be ignored is refused', async () => {
  for (const [spec, args, says] of REFUSED) await refused(spec, args, says);
  assert.equal((await parsed(generate, '--temperature 1 --top-k 3')).topK, 3);
});

/** Mistyped or foreign names, by ours. */
const MEANT: Readonly<Record<string, readonly string[]>> = {
  batch: ['batchsize', 'batch-size'],
  lr: ['learning-rate', 'leraning_rate', 'LearningRate'],
  'weight-decay': ['weight_decai'],
  clip: ['max-grad-norm'],
  steps: ['num-steps'],
  checkpointing: ['checkpoint'],
  runs: ['output_dir'],
};

flags('a mistyped or foreign name is answered with ours, as a flag and as a key', async () => {
  for (const [name, words] of Object.entries(MEANT)) {
    for (const word of words) {
      await refused(train, `--${word} 3`, new RegExp(`unknown option --${word}; did you mean --${name}\\?`));
      await refused(train, `--${word}=3`, new RegExp(`did you mean --${name}\\?`));
      const file = yaml('typo', `lr: 1\n${word}: 3\n`);
      await refused(train, `-c ${file}`, new RegExp(`typo.yaml:2: unknown key "${word}"; did you mean "${name}"\\?`));
    }
  }
});

flags('every alias stands for an option that there is', () => {
  const specs: readonly CommandSpec[] = Object.values(COMMANDS);
  const known = specs.flatMap(({ table, extra = [] }) => [
    ...Object.keys(table).map(dashed),
    ...extra.map(([flag]) => /--([\w-]+)/.exec(flag)![1]),
  ]);
  for (const name of Object.keys(ALIASES)) assert.ok(name === 'config' || known.includes(name), name);
});

flags('a recipe names what it leaves to the one who runs it', async () => {
  const needs = /published-25.yaml:2: needs: .* teacher, data to you: give --teacher .* and --data/;
  await refused(distill, '-c published-25', needs);
  await refused(distill, '-c published-25 --teacher x', /leaves data to you: give --data/);
  assert.is((await parsed(distill, '-c published-25 --teacher x --data sort-of-clevr')).accumulate, 16);
  await refused(distill, `-c ${yaml('needs', 'needs: [lrr]\n')}`, /needs.yaml:1: needs: "lrr" is no setting/);
});
flags.run();

const files = suite('settings files');

function yaml(name: string, text: string): string {
  const path = join(folder, `${name}.yaml`);
  writeFileSync(path, text);
  return path;
}

/** Nine lists of the one before: 9^9 values. */
const bomb = Array.from({ length: 9 }, (_, i) => `&l${i + 1} [${Array(9).fill(`*l${i}`).join(', ')}]`);

const BAD: readonly (readonly [what: string, text: string, says: RegExp])[] = [
  ['an alias within its own anchor', 'data: &a [*a]\n', /:1: data: expected a value or a list of values/],
  ['a key within its own anchor', '? &a [*a]\n: 3\n', /:1: expected the name of a setting/],
  ['an alias of nothing', 'lr: *x\n', /:1: lr: \*x stands for no value/],
  ['an alias as a key', '&a lr: 1\n*a : 2\n', /:2: expected the name of a setting/],
  ['a list as a key', '? [a]\n: 3\n', /:1: expected the name of a setting/],
  ['a number as a key', '3: 3\n', /:1: expected the name of a setting/],
  ['a mapping', 'lr: {a: 1}\n', /:1: lr: expected a value or a list/],
  ['a list of lists', 'layers: [[1]]\n', /:1: layers: expected a value or a list/],
  ['a list that is no mapping', '- lr\n', /:1: expected settings, one "name: value" a line/],
  ['an unknown tag', 'lr: !!foo 3\n', /:1: Unresolved tag/],
  ['a key twice', 'lr: 1\nlr: 2\n', /:2: "lr" is given twice/],
  ['a key twice in two spellings', 'weight-decay: 1\nweight_decay: 2\n', /:2: "weight_decay" is given twice/],
  ['a bomb of aliases', `data: [&l0 [x], ${bomb.join(', ')}]\n`, /:1: data: expected a value or a list of values/],
  ['a second document', 'batch: 2\n---\nbatch: 3\n', /:2: a second document begins; expected one(?!.*parseAllDocuments)/],
  ['a list that does not end', 'lr: [0.1\n', /:\d+: /],
  ['a text for a number', 'lr: 0.1\nbatch: many\n', /:2: batch: expected a whole number from 1, got "many"/],
  ['infinity', 'temperature: .inf\n', /:1: temperature: expected a number .*, got Infinity$/],
  ['depth', `lr: ${'['.repeat(50_000)}`, /:1: expected a value or a list of values/],
  ['not a number', 'lr: .nan\n', /:1: lr: expected a number above 0, got NaN/],
  ['nothing', 'lr:\n', /:1: lr: expected a number above 0, got null/],
  ['a very long key', `${'x'.repeat(1000)}: 1\n`, /:1: unknown key "x{119}…"$/],
  ['a very long value', `loss: ${'x'.repeat(1e5)}\n`, /:1: loss: expected \S+, .{1,60}, got "x{198}…$/],
  ['12,000 keys', Array.from({ length: 12_000 }, (_, i) => `k${i}: 1`).join('\n'), /:1: unknown key "k0"/],
];
for (const [what, text, says] of BAD) files(`refuse ${what}`, () => refused(distill, `-c ${yaml('bad', text)}`, says));

files('that are too large or no files are not read', async () => {
  const keys = Array.from({ length: 300_000 }, (_, i) => `k${i}: 1`).join('\n');
  await refused(train, `-c ${yaml('large', keys)}`, /large.yaml: \d+ bytes, expected at most/);
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  for (const path of ['/dev/zero', pipe]) {
    await refused(train, `-c ${path}`, new RegExp(`cannot read ${path}: it is a device or pipe`), MatvlmError);
  }
  await refused(train, `-c ${folder}`, /it is a folder/);
});

files('give what was written, whatever it holds, and what aliases stand for', async () => {
  assert.is((await parsed(train, `-c ${yaml('alias', 'batch: &n 3\nsteps: *n\n')}`)).steps, 3);
  for (const { table } of [train, distill]) {
    const odd = { teacher: 'no', data: ['easy-vqa=a: b #c', '---', "it's", '&a', '*b', '~', '1e3'], lr: 1e-8 };
    const values = Object.fromEntries(Object.entries(table).map(([key, { fallback }]) => [key, fallback]));
    const settings = { ...values, ...Object.fromEntries(Object.entries(odd).filter(([key]) => key in table)) };
    const layer = await yamlLayer(yaml('round', toYaml(settings, 'settings')), table);
    assert.equal(Object.fromEntries(layer.values), settings);
  }
});
files.run();
