/**
 * What a terminal or a page obeys instead of showing it: control characters (C0, DEL and C1, with which every escape
 * sequence begins), line and paragraph separators, and the marks that turn the direction of text.
 */
const OBEYED = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;

/**
 * A text of unknown origin as it may be written to a terminal, a page or a report: each character that would be obeyed
 * becomes its code, such as `\u001b`. Line breaks and tabs stay. That is JSON's own spelling, so JSON that goes through
 * here stays valid and means the same.
 */
export function printable(text: string): string {
  return text.replace(OBEYED, (c) => (c === '\n' || c === '\t' ? c : codeOf(c)));
}

/** `printable` for what must stay on one line: line breaks and tabs become their codes too. */
export function printableLine(text: string): string {
  return text.replace(OBEYED, codeOf);
}

function codeOf(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}
