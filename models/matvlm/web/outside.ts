/** Where a question or a picture lies outside of what models know, and how that was told. */
import type { Picture } from './picker.ts';

/** A picture with less of it in its commonest colours is no drawing: see `flatness`. */
const DRAWING = 2 / 3;

/**
 * What to say of words that models have no token for; '' where there is none.
 * @param unknown by model
 * @param instance a question that they do know
 */
export function aboutWords(
  unknown: readonly { readonly role: string; readonly words: readonly string[] }[],
  instance: string,
): string {
  const lacking = unknown.filter(({ words }) => words.length > 0);
  if (lacking.length === 0) return '';
  const words = [...new Set(lacking.flatMap((model) => model.words))].map((word) => `“${word}”`);
  const who = lacking.map(({ role }) => `the ${role}`).join(' and ');
  const know = lacking.length > 1 ? 'have' : 'has';
  return (
    `${who[0].toUpperCase()}${who.slice(1)} ${know} no word for ${words.join(', ')}: the answer is a guess. ` +
    `Ask for instance “${instance}”`
  );
}

/**
 * What to say of a picture of one's own; '' for an example, and where it is not known what the models have seen.
 * Colours alone tell a photograph from a drawing: what is drawn is not looked at.
 */
export function aboutPicture({ example, looked }: Picture, seen: readonly string[]): string {
  if (example || seen.length === 0) return '';
  const know = `The models have seen ${seen.join(' and ')}, nothing else.`;
  if (looked.flatness >= DRAWING) return `${know} Whether yours is such a picture was not looked at, beyond its flat colours.`;
  const share = Math.round(looked.flatness * 100);
  return `${know} Yours is none (its twelve commonest colours make up ${share} % of it, of a drawing nearly all): answers are guesses.`;
}
