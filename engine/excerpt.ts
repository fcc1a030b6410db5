/** Longest excerpt of a value in an error message, in UTF-16 units. */
const ROOM = 120;
/** Items of a list and entries of an object that an excerpt shows. */
const ITEMS = 4;

/** A name or text as error messages show it: quoted, escaped and cut to a line, as it may come from a hostile file. */
export function quote(text: string): string {
  return JSON.stringify(cut(text, ROOM));
}

/** The first names of a list, for messages. */
export function listNames(names: readonly string[], most = 8): string {
  const shown = names.slice(0, most).map(quote);
  return names.length > most ? `${shown.join(', ')} and ${names.length - most} more` : shown.join(', ');
}

/** Any value of a JSON file as error messages show it, in some 120 characters, however large or deep it is. */
export function excerpt(value: unknown, depth = 0): string {
  if (typeof value === 'string') return quote(value);
  if (typeof value !== 'object' || value === null) return String(value);
  const list = Array.isArray(value);
  const [open, close] = list ? '[]' : '{}';
  const keys = Object.keys(value);
  if (depth > 1) return `${open}…${close}`;
  const shown = keys.slice(0, ITEMS).map((key) => {
    const item = excerpt((value as Record<string, unknown>)[key], depth + 1);
    return list ? item : `${quote(key)}: ${item}`;
  });
  if (keys.length > ITEMS) shown.push('…');
  return cut(`${open}${shown.join(', ')}${close}`, ROOM);
}

/** A text of at most `most` units: the end of a longer one gives way to an ellipsis. */
export function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
