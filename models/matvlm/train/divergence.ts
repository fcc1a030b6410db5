import { scope } from '../../../engine/scope.ts';
import { noGrad } from '../../../engine/tape.ts';
import { yieldToEventLoop } from '../../nn/event-loop.ts';
import type { VqaDataset, VqaSample } from '../data/dataset.ts';
import { distillVqa } from '../distill.ts';
import { type LossOptions, publishedLosses } from '../losses.ts';
import type { MaTVLM } from '../model.ts';
import type { Vlm } from '../vlm.ts';
import { uploadVqa } from '../vqa-batch.ts';
import { collate } from './loader.ts';

/** KL(teacher ‖ student) alone, at temperature 1, the mean over the tokens of the right answers. */
const ANSWERS: LossOptions = { ...publishedLosses, layerWeight: 0, reduction: 'mean' };

/**
 * How far a student's words are from its teacher's on questions that neither was trained on: for each image with
 * questions the KL divergence from teacher to student in nats, a mean over the tokens of its right answers.
 * @param limit images of each set, from the first
 * @throws the signal's reason when it aborts
 */
export async function divergences(
  teacher: MaTVLM,
  student: Vlm,
  sets: readonly VqaDataset[],
  limit: number,
  signal?: AbortSignal,
): Promise<number[]> {
  const found: number[] = [];
  for (const set of sets) {
    for (let i = 0; i < Math.min(limit, set.length); i++) {
      await yieldToEventLoop();
      signal?.throwIfAborted();
      const sample = set.get(i);
      if (sample.questions.length > 0) found.push(await divergence(teacher, student, sample));
    }
  }
  return found;
}

async function divergence(teacher: MaTVLM, student: Vlm, sample: VqaSample): Promise<number> {
  const { encoder, tokenizer, model } = student;
  const pixels = student.pixels(await sample.image());
  const batch = { pixels, images: 1, ...collate([sample.questions], encoder, tokenizer.padId) };
  const kl = noGrad(() => scope(() => distillVqa(teacher, model, uploadVqa(model, batch), ANSWERS).total));
  const [value] = await kl.data();
  kl.dispose();
  return value;
}
