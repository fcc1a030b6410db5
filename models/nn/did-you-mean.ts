/**
 * The known word nearest to a mistyped one; null when none is near. Case, dashes and underscores do not count, and a
 * word may be cut short.
 * @param aliases other words by the known word that they stand for; an alias is found as the word that it stands for
 */
export function nearest(
  word: string,
  known: readonly string[],
  aliases: Readonly<Record<string, readonly string[]>> = {},
): string | null {
  const wanted = plain(word);
  const spelled = known.flatMap((name) => [name, ...(aliases[name] ?? [])].map((spelling) => ({ name, spelling })));
  const [best] = spelled
    .map(({ name, spelling }) => ({ name, ...compared(wanted, plain(spelling)) }))
    .filter(({ distance, allowed }) => distance <= allowed)
    .sort((a, b) => a.distance - b.distance);
  return best?.name ?? null;
}

/** `; did you mean "x"?` for the known word nearest to a mistyped one, or nothing when none is near. */
export function didYouMean(word: string, known: readonly string[]): string {
  const name = nearest(word, known);
  return name === null ? '' : `; did you mean "${name}"?`;
}

function plain(word: string): string {
  return word.toLowerCase().replace(/[-_\s]/g, '');
}

/** Letters that make a beginning of a word worth going by. */
const BEGINNING = 4;

function compared(word: string, name: string): { distance: number; allowed: number } {
  const allowed = Math.ceil(Math.max(name.length, word.length) / 3);
  if (word.length >= BEGINNING && name.startsWith(word)) return { distance: Math.min(1, name.length - word.length), allowed };
  // So far apart at least; a word from a file may be very long.
  const longer = Math.abs(name.length - word.length);
  return { distance: longer > allowed ? longer : editDistance(word, name), allowed };
}

/** Levenshtein's distance. */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
