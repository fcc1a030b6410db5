import { stringify } from 'yaml';
import { type MatvlmConfig, ssmLayers } from '../../config.ts';
import { familyOf } from '../../families/index.ts';
import { printable, printableLine } from '../printable.ts';
import { outline } from '../../sizes.ts';
import { ownCommand } from './shell.ts';

/** What a card tells beside what the configuration says. */
export interface CardFacts {
  readonly title: string;
  /** The words of the command that made the model, after the program's name. */
  readonly command: readonly string[];
  /** Names of the data sets that it was trained on. */
  readonly datasets?: readonly string[];
  /** Measured accuracy, 0…1, by kind of question. */
  readonly accuracy?: ReadonlyMap<string, number>;
  /** Steps of training so far. */
  readonly step?: number;
  /** The teacher that a student was made from. */
  readonly teacher?: string;
}

/**
 * Front matter as model hubs read it. Every text is quoted: parsers differ in what they take for a date, a number or a
 * switch, and refuse control characters.
 */
function frontMatter(values: object): string {
  return printable(stringify(values, { defaultStringType: 'QUOTE_DOUBLE', defaultKeyType: 'PLAIN', lineWidth: 0 }));
}

/** README.md of an exported folder: front matter, then the facts. */
export function modelCard(config: MatvlmConfig, facts: CardFacts): string {
  const layers = ssmLayers(config);
  const { text_config: text, vision_config: vision } = config.model;
  const front = {
    library_name: 'matvlm',
    pipeline_tag: 'visual-question-answering',
    tags: ['vision-language', 'siglip', text.model_type, ...(layers.length > 0 ? ['mamba-2', 'hybrid', 'distillation'] : [])],
    ...(facts.datasets ? { datasets: [...facts.datasets] } : {}),
  };
  const lines = [
    `# ${facts.title}`,
    '',
    layers.length > 0
      ? `A Mamba–Transformer hybrid (MaTVLM): a Mamba-2 mixer in layers ${layers.join(', ')} of ${text.num_hidden_layers}.`
      : 'A vision-language transformer in the TinyLLaVA architecture.',
    '',
    `- Parameters: ${parameters(config).toLocaleString('en-US')}`,
    `- Images: ${vision.image_size} × ${vision.image_size}, SigLIP, patches of ${vision.patch_size}`,
    `- Decoder: ${familyOf(text).title}, ${text.num_hidden_layers} layers of ${text.hidden_size}, vocabulary ${text.vocab_size}`,
    ...(facts.teacher ? [`- Teacher: ${code(facts.teacher)}`] : []),
    ...(facts.step !== undefined ? [`- Steps: ${facts.step}`] : []),
    ...[...(facts.accuracy ?? [])].map(([kind, share]) => {
      return `- Accuracy, ${printableLine(kind)}: ${(share * 100).toFixed(1)} %`;
    }),
    '',
    'Made by:',
    '```sh',
    printableLine(ownCommand(...facts.command)),
    '```',
    '',
    'Ask it something:',
    '```sh',
    'npx matvlm generate . --image picture.png --prompt "what shape is the red object?"',
    '```',
    '',
  ];
  return `---\n${frontMatter(front)}---\n${lines.join('\n')}`;
}

/** A text of any kind as it stands, in Markdown. */
function code(text: string): string {
  const longest = Math.max(0, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = '`'.repeat(longest + 1);
  return longest > 0 ? `${fence} ${printableLine(text)} ${fence}` : `${fence}${printableLine(text)}${fence}`;
}

function parameters(config: MatvlmConfig): number {
  return [...outline(config).parameters.values()].reduce((sum, { size }) => sum + size, 0);
}
