import { defineCommand } from '../command.ts';
import { count, number, optional, text, texts } from '../options/options.ts';
import { backendOption } from '../options/training-options.ts';

export const generateTable = {
  prompt: text('the question', ''),
  image: optional(text('a PNG, JPEG, GIF, WebP or AVIF file; none for a question without an image', '', '<file>')),
  maxNewTokens: count('tokens to make at most', 64),
  temperature: number('0 always takes the likeliest token', 0, { min: 0, max: 100 }),
  topK: count('draw among so many of the likeliest; 0 among all', 0, 0),
  topP: number('draw among the likeliest that reach this probability', 1, { above: 0, max: 1 }),
  repetitionPenalty: number('divides the logits of tokens seen before', 1, { min: 0.01, max: 100 }),
  stop: optional(texts('texts that end the answer', [''], '<text,text,…>')),
  seed: count('seed of the draws', 0, 0),
  backend: backendOption,
};

/** Only draws depend on these. */
const drawn = ({ temperature }: { temperature: number }) =>
  temperature === 0 && 'at --temperature 0 the likeliest token is taken';

export default defineCommand({
  about: 'Answers a question about an image, word by word as it comes. The answer goes to stdout, all else to stderr.',
  args: [['<model>', 'folder of a model or run, or "teacher", "student"']],
  table: generateTable,
  yaml: true,
  idle: { topK: drawn, topP: drawn, seed: drawn },
  extra: [['--json', 'print answer and usage as JSON']],
  examples: [
    'generate teacher --image scene.png --prompt "what shape is the red object?"',
    'generate runs/distill --image scene.png --prompt "is the blue object on the left?" --json',
    'generate ../phi-2-vlm --image cat.jpg --prompt "Describe it." --temperature 0.7 --top-p 0.9 --seed 1',
  ],
  run: async ({ settings, args, flags }) =>
    (await import('./generate-command.ts')).generateAnswer(settings(), args[0], flags.json === true),
});
