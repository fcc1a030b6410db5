import type { MatvlmError } from '../../engine/errors.ts';

/** Deepest nesting of any file that is read: no real one comes near, and code that walks it must not run out of stack. */
const DEPTH_LIMIT = 100;

const [QUOTE, BACKSLASH, OPEN, CLOSE, BEGIN, END] = [...'"\\[]{}'].map((c) => c.charCodeAt(0));

/** Where a JSON text nests deeper than the limit; −1 where it does not. */
function tooDeepAt(text: string): number {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (inString) {
      if (c === BACKSLASH) i++;
      else if (c === QUOTE) inString = false;
    } else if (c === QUOTE) inString = true;
    else if (c === OPEN || c === BEGIN) {
      if (++depth > DEPTH_LIMIT) return i;
    } else if (c === CLOSE || c === END) depth--;
  }
  return -1;
}

/**
 * Parses a JSON file of whatever origin.
 * @param name what errors call it
 * @throws Kind for what is no JSON or nests too deep
 */
export function parseJson(
  text: string,
  name: string,
  Kind: new (message: string, options?: ErrorOptions) => MatvlmError,
): unknown {
  const deep = tooDeepAt(text);
  if (deep >= 0) {
    throw new Kind(`${name}: nested deeper than ${DEPTH_LIMIT} at character ${deep}; this is not the file it should be`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Kind(`${name}: no valid JSON: ${(error as Error).message}`, { cause: error });
  }
}
