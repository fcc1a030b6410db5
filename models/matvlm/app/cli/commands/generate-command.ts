import { diskFolder } from '../../../../../engine/node/index.ts';
import { closeBackend, openBackend } from '../../node/backend.ts';
import { readImage } from '../../node/decode.ts';
import { modelFolder, readModel } from '../../node/model-folder.ts';
import { loadVlm, type Usage, type Vlm } from '../../../vlm.ts';
import { UsageError } from '../terminal/errors.ts';
import type { generateTable } from './generate.ts';
import { interrupted } from '../terminal/interrupt.ts';
import type { Settings } from '../options/options.ts';
import { print, printJson, printPiece, say, warn } from '../terminal/output.ts';

type GenerateSettings = Settings<typeof generateTable>;

/** `matvlm generate MODEL --image FILE --prompt TEXT` */
export async function generateAnswer(settings: GenerateSettings, spec: string, json: boolean): Promise<void> {
  if (settings.prompt === '')
    throw new UsageError('--prompt is missing: give the question, such as --prompt "what is it?"');
  const image = settings.image === null ? null : await readImage(settings.image);
  await modelFolder(spec, warn);
  const signal = interrupted('Stopping; Ctrl-C again quits at once.');
  const backend = await openBackend(settings.backend, say);
  try {
    const vlm = await readModel(spec, (folder) => loadVlm(diskFolder(folder), backend, { signal }));
    await answer(vlm, settings, image, json, signal);
    vlm.dispose();
  } finally {
    closeBackend(backend);
  }
}

async function answer(
  vlm: Vlm,
  settings: GenerateSettings,
  image: Parameters<Vlm['generate']>[0]['image'],
  json: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { prompt, maxNewTokens, temperature, topK, topP, repetitionPenalty, seed, stop } = settings;
  let usage: Usage | null = null;
  const pieces = vlm.generate({
    ...{ prompt, image, maxNewTokens, temperature, topK, topP, repetitionPenalty, seed, signal },
    stop: stop ?? [],
    onUsage: (u) => (usage = u),
  });
  let text = '';
  for await (const piece of pieces) {
    // The space that the template puts before an answer is not the answer's own.
    const shown = text === '' ? piece.trimStart() : piece;
    text += shown;
    if (!json) printPiece(shown);
  }
  if (json) return printJson({ answer: text.trim(), usage });
  print();
  if (usage) say(describeUsage(usage));
}

function describeUsage({ promptTokens, newTokens, timeToFirstToken, tokensPerSecond }: Usage): string {
  const rate = tokensPerSecond > 0 ? `, ${tokensPerSecond.toFixed(1)} tokens/s` : '';
  return `${promptTokens} + ${newTokens} tokens, the first after ${timeToFirstToken.toFixed(0)} ms${rate}`;
}
