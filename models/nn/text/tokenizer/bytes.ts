/** The visible characters by which byte-level tokenizers write bytes: GPT-2's table. */

const isPlain = (byte: number): boolean => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte < 0x100 && byte !== 0xad);

/** The character of each byte: its own where that is visible, else the next one from U+0100 on. */
export const BYTES: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPlain(byte) ? byte : next++));
})();

/** The byte of each of these characters. */
export const BYTE_OF: ReadonlyMap<string, number> = new Map(BYTES.map((char, byte) => [char, byte]));

const utf8 = new TextEncoder();

/** The bytes of a text as these characters. */
export function inBytes(text: string): string {
  let out = '';
  for (const byte of utf8.encode(text)) out += BYTES[byte];
  return out;
}
