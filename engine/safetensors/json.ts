import { quote } from '../excerpt.ts';
import { TENSOR_LIMIT } from './format.ts';

/** Text of names and metadata that one document may hold, in bytes: bounds memory however large the document is. */
const TEXT_LIMIT = 16 * 2 ** 20;
/** Keys of one object: the format's tensors and `__metadata__`. */
const KEY_LIMIT = TENSOR_LIMIT + 1;
const DEPTH_LIMIT = 64;
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

const code = (char: string) => char.charCodeAt(0);
const [QUOTE, BACKSLASH, ZERO, NINE] = [...'"\\09'].map(code);
/** What ends a number or a word. */
const ENDS: ReadonlySet<number> = new Set([...',:]} \n\r\t'].map(code));
const WORD = /^(-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|true|false|null)$/;
const isSpace = (byte: number) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;

/** Tells of each key whether it came before. */
function seen(): (key: string) => boolean {
  const keys = new Set<string>();
  return (key) => keys.size === keys.add(key).size;
}

/**
 * Walks a JSON document byte by byte and hands out what the caller asks for, so that nothing is built that the format
 * does not have. Unlike JSON.parse it sees duplicate keys, refuses `__proto__`, tells integers from other numbers and
 * knows the byte of every fault.
 */
export class JsonScanner {
  position = 0;
  private text = 0;

  /** @param fail throws the caller's error for a fault at a byte of `bytes` */
  constructor(
    private readonly bytes: Uint8Array,
    readonly fail: (byte: number, message: string) => never,
  ) {}

  /** Skips white space; the next byte, or −1 at the end. */
  peek(): number {
    while (isSpace(this.bytes[this.position])) this.position++;
    return this.bytes[this.position] ?? -1;
  }

  /** Passes `char` if it comes next. */
  take(char: string): boolean {
    if (this.peek() !== code(char)) return false;
    this.position++;
    return true;
  }

  expect(char: string, what: string): void {
    if (!this.take(char)) this.refuse(this.position, what, JSON.stringify(char));
  }

  /**
   * Walks an object; `onKey` must pass the value. Throws on a duplicate key and on `__proto__`.
   * @param isKnown tells which keys came before; a caller that keeps them anyway saves a second set of them
   */
  object(what: string, onKey: (key: string, at: number) => void, isKnown = seen()): void {
    this.expect('{', what);
    if (this.take('}')) return;
    let count = 0;
    do {
      this.peek();
      const at = this.position;
      const key = this.string(what);
      if (key === '__proto__') this.fail(at, `${what}: key "__proto__" is refused`);
      if (isKnown(key)) this.fail(at, `${what}: duplicate key ${quote(key)}, expected each key once`);
      if (++count > KEY_LIMIT) this.fail(at, `${what}: more than ${KEY_LIMIT} keys`);
      this.expect(':', what);
      onKey(key, at);
    } while (this.take(','));
    this.expect('}', what);
  }

  /** Walks an array of at most `limit` items; `onItem` must pass the item. */
  array(what: string, limit: number, onItem: () => void): void {
    this.expect('[', what);
    if (this.take(']')) return;
    let count = 0;
    do {
      if (count++ === limit) this.fail(this.position, `${what}: more than ${limit} items`);
      onItem();
    } while (this.take(','));
    this.expect(']', what);
  }

  string(what: string): string {
    this.expect('"', what);
    const begin = this.position;
    let escaped = false;
    for (; this.bytes[this.position] !== QUOTE; this.position++) {
      if (this.position >= this.bytes.length) this.fail(begin - 1, `${what}: the string does not end`);
      if (this.bytes[this.position] < 0x20) this.fail(this.position, `${what}: control character in a string`);
      if (this.bytes[this.position] !== BACKSLASH) continue;
      escaped = true;
      this.position++;
    }
    this.text += this.position - begin;
    if (this.text > TEXT_LIMIT) this.fail(begin, `${what}: more than ${TEXT_LIMIT} bytes of text in one header`);
    return this.decode(begin, this.position++, escaped, what);
  }

  private decode(begin: number, end: number, escaped: boolean, what: string): string {
    let value: string;
    try {
      value = utf8.decode(this.bytes.subarray(begin, end));
      if (escaped) value = JSON.parse(`"${value}"`) as string;
    } catch {
      return this.fail(begin, `${what}: bad UTF-8 or a bad escape in a string`);
    }
    if (/\p{Surrogate}/u.test(value)) this.fail(begin, `${what}: half of a surrogate pair in a string`);
    return value;
  }

  /** A plain integer in 0 … 2^53−1: no sign, fraction, exponent or leading zero. */
  integer(what: string): number {
    this.peek();
    const { bytes, position: begin } = this;
    let value = 0;
    for (let digit; (digit = bytes[this.position]) >= ZERO && digit <= NINE; this.position++) {
      value = value * 10 + (digit - ZERO);
    }
    const digits = this.position - begin;
    const ends = this.position === bytes.length || ENDS.has(bytes[this.position]);
    if (digits === 0 || (digits > 1 && bytes[begin] === ZERO) || !ends) {
      this.refuse(begin, what, 'a plain integer ≥ 0');
    }
    if (!Number.isSafeInteger(value)) this.fail(begin, `${what}: integer of 2^53 or more`);
    return value;
  }

  /** Passes one value of any kind without keeping it. */
  skip(what: string, depth = 0): void {
    if (depth > DEPTH_LIMIT) this.fail(this.position, `${what}: nested deeper than ${DEPTH_LIMIT}`);
    const next = this.peek();
    if (next === QUOTE) this.string(what);
    else if (next === code('{')) this.object(what, () => this.skip(what, depth + 1));
    else if (next === code('[')) this.array(what, Infinity, () => this.skip(what, depth + 1));
    else if (!this.takeWord(WORD)) this.refuse(this.position, what, 'a JSON value');
  }

  /** Passes a number, true, false or null that is as `pattern` says. */
  takeWord(pattern: RegExp): boolean {
    this.peek();
    let end = this.position;
    while (end < this.bytes.length && !ENDS.has(this.bytes[end])) end++;
    const is = pattern.test(new TextDecoder().decode(this.bytes.subarray(this.position, end)));
    if (is) this.position = end;
    return is;
  }

  /** Throws for what comes at a byte. */
  private refuse(at: number, what: string, expected: string): never {
    const byte = this.bytes[at];
    const shown = byte > 0x20 && byte < 0x7f ? `'${String.fromCharCode(byte)}'` : `byte 0x${byte?.toString(16).padStart(2, '0')}`;
    this.fail(at, `${what}: found ${byte === undefined ? 'the end' : shown}, expected ${expected}`);
  }
}
