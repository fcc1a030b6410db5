// The card of a saved model: whatever paths and names it tells, its front matter is YAML and its commands can be run.
import { execFileSync } from 'node:child_process';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parse } from 'yaml';
import { type CardFacts, modelCard } from '../../models/matvlm/app/node/model-card.ts';
import { commandLine, ownCommand } from '../../models/matvlm/app/node/shell.ts';
import { smallConfig } from '../support/tiny-model.ts';

/** Texts that YAML 1.1 or 1.2, Markdown or a shell take for something else. */
const ODD = [
  ...['no', 'on', 'y', '~', 'null', '1:30', '2024-01-01', '0x10', '1_000', '=', '<<', '---', '...', '- a', '# x'],
  ...['a: b', 'a #b', "it's", '"', '&a', '*a', '!!int 3', '{a}', '[a]', '%a', '@a', '`', '``a`', 'a\nb', '\n---\n'],
  ...['\u007f', '\u0085', '\u009b31m', '\u2028', '\u202e', '\u001b]52;c;eA==\u0007', '$(id)', '; id', 'a b', '', ' '],
  'x'.repeat(300),
];
const facts = (text: string): CardFacts => ({
  title: 'A model',
  command: ['init', text],
  datasets: ['sort-of-clevr', text],
  teacher: text,
  accuracy: new Map([[text, 0.5]]),
});

const card = suite('model card');

for (const text of ODD) {
  card(`holds ${JSON.stringify(text).slice(0, 30)}`, () => {
    const [, front, body] = /^---\n(.*?)\n---\n(# A model\n.*)$/s.exec(modelCard(smallConfig(), facts(text)))!;
    for (const version of ['1.1', '1.2'] as const) {
      assert.equal((parse(front, { version }) as { datasets: unknown }).datasets, ['sort-of-clevr', text]);
    }
    // biome-ignore lint: control characters are what is looked for
    assert.not.match(front + body, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029\u202e]/);
    assert.is(body.split('\n').filter((line) => line === '```').length, 2, 'the fences of the two commands');
  });
}

card('a command is what a shell takes apart into the same words', () => {
  const words = ODD.filter((text) => !text.includes('\0'));
  const given = execFileSync('sh', ['-c', `printf '%s\\0' ${commandLine(words)}`], { encoding: 'utf8' });
  assert.equal(given.split('\0').slice(0, -1), words);
  assert.is(ownCommand('train', '--data', 'easy-vqa=../a,b'), 'npx matvlm train --data easy-vqa=../a,b');
});
card.run();
