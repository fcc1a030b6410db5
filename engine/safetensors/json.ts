import { quote } from '../excerpt.ts';
import { TENSOR_LIMIT } from './format.ts';

/** Text of names and metadata that one document may hold, in bytes: bounds memory however large the document is. */
const TEXT_LIMIT = 16 * 2 ** 20;
/** Keys of one object: the format's tensors and `__metadata__`. */
const KEY_LIMIT = TENSOR_LIMIT + 1;
const DEPTH_LIMIT = 64;
const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder();

const code = (char: string) => char.charCodeAt(0);
const codes = (chars: string): ReadonlySet<number> => new Set([...chars].map(code));
const [QUOTE, BACKSLASH] = codes('"\\');
const SPACES = codes(' \n\r\t');
/** What ends a number or a word. */
const ENDS = codes(',:]} \n\r\t');
const WORD = /^(-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|true|false|null)$/;

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
    while (SPACES.has(this.bytes[this.position])) this.position++;
    return this.bytes[this.position] ?? -1;
  }

  /** Walks an object; `onKey` must pass the value. Throws on a duplicate key and on `__proto__`. */
  object(what: string, onKey: (key: string, at: number) => void): void {
    const keys = new Set<string>();
    this.list(what, '{}', () => {
      this.peek();
      const at = this.position;
      const key = this.string(what);
      if (key === '__proto__') this.fail(at, `${what}: key "__proto__" is refused`);
      if (keys.has(key)) this.fail(at, `${what}: duplicate key ${quote(key)}, expected each key once`);
      if (keys.add(key).size > KEY_LIMIT) this.fail(at, `${what}: more than ${KEY_LIMIT} keys`);
      this.expect(':', what);
      onKey(key, at);
    });
  }

  /** Walks an array of at most `limit` items; `onItem` must pass the item. */
  array(what: string, limit: number, onItem: () => void): void {
    let count = 0;
    this.list(what, '[]', () => {
      if (count++ === limit) this.fail(this.position, `${what}: more than ${limit} items`);
      onItem();
    });
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
    const bytes = this.bytes.subarray(begin, this.position++);
    this.text += bytes.length;
    if (this.text > TEXT_LIMIT) this.fail(begin, `${what}: more than ${TEXT_LIMIT} bytes of text in one header`);
    let value: string;
    try {
      value = strict.decode(bytes);
      if (escaped) value = JSON.parse(`"${value}"`) as string;
    } catch {
      return this.fail(begin, `${what}: bad UTF-8 or a bad escape in a string`);
    }
    if (/\p{Surrogate}/u.test(value)) this.fail(begin, `${what}: half of a surrogate pair in a string`);
    return value;
  }

  /** A plain integer in 0 … 2^53−1: no sign, fraction, exponent or leading zero. */
  integer(what: string): number {
    const digits = this.takeWord(/^(0|[1-9]\d*)$/) ?? this.refuse(what, 'a plain integer ≥ 0');
    const value = Number(digits);
    if (!Number.isSafeInteger(value)) this.fail(this.position - digits.length, `${what}: integer of 2^53 or more`);
    return value;
  }

  /** Passes one value of any kind without keeping it. */
  skip(what: string, depth = 0): void {
    if (depth > DEPTH_LIMIT) this.fail(this.position, `${what}: nested deeper than ${DEPTH_LIMIT}`);
    const next = this.peek();
    if (next === QUOTE) this.string(what);
    else if (next === code('{')) this.object(what, () => this.skip(what, depth + 1));
    else if (next === code('[')) this.array(what, Infinity, () => this.skip(what, depth + 1));
    else if (this.takeWord(WORD) === undefined) this.refuse(what, 'a JSON value');
  }

  /** Passes a number, true, false or null and returns it, where it is as `pattern` says. */
  takeWord(pattern: RegExp): string | undefined {
    this.peek();
    let end = this.position;
    while (end < this.bytes.length && !ENDS.has(this.bytes[end])) end++;
    const word = lenient.decode(this.bytes.subarray(this.position, end));
    if (!pattern.test(word)) return undefined;
    this.position = end;
    return word;
  }

  /** Walks what two brackets hold, with a comma between one item and the next. */
  private list(what: string, [open, close]: string, onItem: () => void): void {
    this.expect(open, what);
    if (this.take(close)) return;
    do onItem();
    while (this.take(','));
    this.expect(close, what);
  }

  /** Passes `char` if it comes next. */
  private take(char: string): boolean {
    if (this.peek() !== code(char)) return false;
    this.position++;
    return true;
  }

  private expect(char: string, what: string): void {
    if (!this.take(char)) this.refuse(what, JSON.stringify(char));
  }

  /** Throws for what comes next. */
  private refuse(what: string, expected: string): never {
    const byte = this.bytes[this.position];
    let found = 'the end';
    if (byte > 0x20 && byte < 0x7f) found = `'${String.fromCharCode(byte)}'`;
    else if (byte !== undefined) found = `byte 0x${byte.toString(16).padStart(2, '0')}`;
    this.fail(this.position, `${what}: found ${found}, expected ${expected}`);
  }
}
