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
 * What to say of a picture of one's own; '' for an example, and where it is not known what any model has seen.
 * Colours alone tell a photograph from a drawing: what is drawn is not looked at.
 * @param seen by model
 */
export function aboutPicture(
  { example, looked }: Picture,
  seen: readonly { readonly role: string; readonly pictures: readonly string[] | null }[],
): string {
  const told = seen.filter(({ pictures }) => pictures !== null);
  if (example || told.length === 0) return '';
  const who = told.length > 1 ? 'The models have' : `The ${told[0].role} has`;
  const pictures = new Set(told.flatMap((model) => model.pictures));
  const know = `${who} seen ${[...pictures].join(' and ')}, nothing else.`;
  if (looked.flatness >= DRAWING) return `${know} Whether yours is such a picture was not looked at, beyond its flat colours.`;
  const share = Math.round(looked.flatness * 100);
  return `${know} Yours is none (its twelve commonest colours make up ${share} % of it, of a drawing nearly all): answers are guesses.`;
}
