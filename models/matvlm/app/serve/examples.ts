import { COLORS, SortOfClevr } from '../../data/sort-of-clevr.ts';
import { encodePng } from '../node/encode-png.ts';

/** An image that the page offers, with questions whose answers are known. */
export interface Example {
  /** What the picture shows, in words. */
  readonly alt: string;
  readonly png: Uint8Array;
  readonly questions: readonly { readonly question: string; readonly answer: string; readonly kind: string }[];
}

/** The first `count` scenes of the built-in test split: no model has been trained on them. */
export async function sceneExamples(count = 8): Promise<Example[]> {
  const data = new SortOfClevr('test');
  const examples: Example[] = [];
  for (let i = 0; i < count; i++) {
    const { image, questions } = data.get(i);
    const distinct = [...new Map(questions.map((q) => [q.question, q])).values()];
    examples.push({
      alt: data.scene(i).map(({ color, shape }) => `${COLORS[color][0]} ${shape}`).join(', '),
      png: await encodePng(await image()),
      questions: distinct.map(({ question, answer, kind }) => ({ question, answer, kind })),
    });
  }
  return examples;
}
