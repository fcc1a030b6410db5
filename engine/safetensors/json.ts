import { quote } from '../excerpt.ts';
import { TENSOR_LIMIT } from './format.ts';

/** Text of names and metadata that one document may hold, in bytes: bounds memory however large the document is. */
const TEXT_LIMIT = 16 * 2 ** 20;
/** Keys of one object: the format's tensors and `__metadata__`. */
const KEY_LIMIT = TENSOR_LIMIT + 1;
const DEPTH_LIMIT = 64;
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

const code = (char: string) => char.charCodeAt(0);
const QUOTE = code('"');
const BACKSLASH = code('\\');
const isSpace = (byte: number) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
const isDigit = (byte: number) => byte >= 0x30 && byte <= 0x39;
const LITERALS = ['true', 'false', 'null'].map((word) => new TextEncoder().encode(word));
const NULL = LITERALS[2];

/**
 * Walks a JSON document byte by byte and hands out what the caller asks for, so that nothing is built that the format
 * does not have. Unlike JSON.parse it sees duplicate keys, refuses `__proto__`, tells integers from other numbers and
 * knows the byte of every fault.
 */
export class JsonScanner {
  position = 0;
  private text = 0;
  private depth = 0;
  private readonly keys: Keys[] = [];
  private readonly recent: string[] = [];

  /** `fail` throws the caller's error for a fault at a byte of `bytes`. */
  constructor(
    private readonly bytes: Uint8Array,
    private readonly fail: (byte: number, message: string) => never,
  ) {}

  /** Skips white space; the next byte, or −1 at the end. */
  peek(): number {
    while (isSpace(this.bytes[this.position])) this.position++;
    return this.position < this.bytes.length ? this.bytes[this.position] : -1;
  }

  /** Passes `char` if it comes next. */
  take(char: string): boolean {
    if (this.peek() !== code(char)) return false;
    this.position++;
    return true;
  }

  expect(char: string, what: string): void {
    if (this.take(char)) return;
    const found = this.position < this.bytes.length ? this.describe(this.position) : 'the end';
    this.fail(this.position, `${what}: found ${found}, expected ${JSON.stringify(char)}`);
  }

  /**
   * Walks an object; `onKey` must pass the value. Throws on a duplicate key and on `__proto__`. A caller that keeps
   * all keys anyway says in `isKnown` which it has, and saves a second set of them.
   */
  object(what: string, onKey: (key: string, at: number) => void, isKnown?: (key: string) => boolean): void {
    this.expect('{', what);
    if (this.take('}')) return;
    const keys = (this.keys[this.depth] ??= new Keys());
    keys.clear();
    this.depth++;
    do {
      this.peek();
      const at = this.position;
      const key = this.string(what);
      if (key === '__proto__') this.fail(at, `${what}: key "__proto__" is refused`);
      const isNew = isKnown ? !isKnown(key) : keys.add(key);
      if (!isNew) this.fail(at, `${what}: duplicate key ${quote(key)}, expected each key once`);
      if (keys.size > KEY_LIMIT) this.fail(at, `${what}: more than ${KEY_LIMIT} keys`);
      this.expect(':', what);
      onKey(key, at);
    } while (this.take(','));
    this.depth--;
    this.expect('}', what);
  }

  /** Walks an array of at most `limit` items; `onItem` must pass the item. Returns how many there were. */
  array(what: string, limit: number, onItem: (index: number) => void): number {
    this.expect('[', what);
    if (this.take(']')) return 0;
    let count = 0;
    do {
      if (count === limit) this.fail(this.position, `${what}: more than ${limit} items`);
      onItem(count++);
    } while (this.take(','));
    this.expect(']', what);
    return count;
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
    const slot = ((end - begin) * 31 + this.bytes[begin] * 7 + this.bytes[end - 1]) & 255;
    if (this.isRecent(slot, begin, end)) return this.recent[slot];
    let value: string;
    try {
      value = utf8.decode(this.bytes.subarray(begin, end));
      if (escaped) value = JSON.parse(`"${value}"`) as string;
    } catch {
      return this.fail(begin, `${what}: bad UTF-8 or a bad escape in a string`);
    }
    if (/\p{Surrogate}/u.test(value)) this.fail(begin, `${what}: half of a surrogate pair in a string`);
    if (!escaped) this.recent[slot] = value;
    return value;
  }

  /** Whether a slot has the string of these bytes: the few words that every tensor repeats are made only once. */
  private isRecent(slot: number, begin: number, end: number): boolean {
    const value = this.recent[slot];
    if (value?.length !== end - begin) return false;
    for (let i = 0; i < value.length; i++) {
      if (value.charCodeAt(i) !== this.bytes[begin + i] || this.bytes[begin + i] > 0x7f) return false;
    }
    return true;
  }

  /** A plain integer in 0 … 2^53−1: no sign, fraction, exponent or leading zero. */
  integer(what: string): number {
    this.peek();
    const begin = this.position;
    let value = 0;
    while (isDigit(this.bytes[this.position]) && this.position - begin < 17) {
      value = value * 10 + (this.bytes[this.position++] - 0x30);
    }
    const digits = this.position - begin;
    const plain = digits === 1 || (digits > 1 && this.bytes[begin] !== 0x30);
    const next = this.peek();
    if (!plain || '.eE+-'.includes(String.fromCharCode(next)) || isDigit(next)) {
      if (digits < 17) this.fail(begin, `${what}: found ${this.describe(begin)}, expected a plain integer ≥ 0`);
    }
    if (digits > 16 || !Number.isSafeInteger(value)) this.fail(begin, `${what}: integer of 2^53 or more`);
    return value;
  }

  /** Passes one value of any kind without keeping it. */
  skip(what: string, depth = 0): void {
    if (depth > DEPTH_LIMIT) this.fail(this.position, `${what}: nested deeper than ${DEPTH_LIMIT}`);
    const next = this.peek();
    if (next === QUOTE) this.string(what);
    else if (next === code('{')) this.object(what, () => this.skip(what, depth + 1));
    else if (next === code('[')) this.array(what, Infinity, () => this.skip(what, depth + 1));
    else this.word(what);
  }

  /** Passes `null` if it comes next. */
  takeNull(): boolean {
    this.peek();
    return this.takeBytes(NULL);
  }

  /** Passes a number, true, false or null. */
  private word(what: string): void {
    const begin = this.position;
    if (this.takeNumber() || LITERALS.some((word) => this.takeBytes(word))) return;
    this.fail(begin, `${what}: found ${this.describe(begin)}, expected a JSON value`);
  }

  private takeBytes(word: Uint8Array): boolean {
    for (let i = 0; i < word.length; i++) if (this.bytes[this.position + i] !== word[i]) return false;
    this.position += word.length;
    return true;
  }

  /** Passes a number of JSON, however long; what follows it is the caller's to check. False when there is none. */
  private takeNumber(): boolean {
    const { bytes } = this;
    let at = this.position;
    const digits = () => {
      const begin = at;
      while (isDigit(bytes[at])) at++;
      return at > begin;
    };
    if (bytes[at] === code('-')) at++;
    if (bytes[at] === code('0')) at++;
    else if (!digits()) return false;
    if (bytes[at] === code('.')) {
      at++;
      if (!digits()) return false;
    }
    if (bytes[at] === code('e') || bytes[at] === code('E')) {
      at++;
      if (bytes[at] === code('+') || bytes[at] === code('-')) at++;
      if (!digits()) return false;
    }
    this.position = at;
    return true;
  }

  private describe(at: number): string {
    const byte = this.bytes[at];
    if (byte === undefined) return 'the end';
    return byte > 0x20 && byte < 0x7f
      ? `'${String.fromCharCode(byte)}'`
      : `byte 0x${byte.toString(16).padStart(2, '0')}`;
  }
}

/** The keys of one object. Nearly all objects have three: a set for each would be most of the memory of a header. */
class Keys {
  private readonly few: string[] = [];
  private many: Set<string> | undefined;
  size = 0;

  clear(): void {
    this.size = 0;
    this.many = undefined;
  }

  /** False when the key is there already. */
  add(key: string): boolean {
    if (this.size === 8) this.many = new Set(this.few);
    if (this.many) {
      if (this.many.has(key)) return false;
      this.many.add(key);
    } else {
      for (let i = 0; i < this.size; i++) if (this.few[i] === key) return false;
      this.few[this.size] = key;
    }
    this.size++;
    return true;
  }
}
