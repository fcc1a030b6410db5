/**
 * Patterns of tokenizer.json: literal texts, and regular expressions in Oniguruma's syntax, which the Rust library
 * uses. They run on a small backtracking machine whose steps are counted, because JavaScript's own cannot be stopped.
 */
import { SplitPreTokenizer } from '@huggingface/tokenizers';
import { ArgumentError } from '../../../../engine/errors.ts';
import { excerpt } from '../../../../engine/excerpt.ts';
import type { Effort } from './effort.ts';
import { fail, type Fields, isObject } from './fields.ts';

/** Begin and end of a match, in UTF-16 units. */
export type Span = readonly [number, number];

/** Finds all matches in a text from left to right; none overlap. */
export type Pattern = (text: string, effort: Effort) => Span[];

/** Longest pattern, in characters, and most parts that it is made of once repetitions are written out. */
const MOST_SOURCE = 10_000;
const MOST_PARTS = 50_000;
const MOST_DEPTH = 100;

/** The `pattern` field of a component: `{ "String": … }` or `{ "Regex": … }`. */
export function patternOf(fields: Fields): Pattern {
  const value = fields.any('pattern');
  const [kind, text] = isObject(value) && Object.keys(value).length === 1 ? Object.entries(value)[0] : [];
  if (typeof text !== 'string' || (kind !== 'String' && kind !== 'Regex')) {
    return fail(`${fields.where}: pattern is ${excerpt(value)}; expected {"String": …} or {"Regex": …}.`);
  }
  // An empty text matches between all characters, as the empty expression does.
  return kind === 'String' && text !== '' ? literal(text) : regex(text, fields.where);
}

/** Matches of a text as it is, which is not empty. */
export function literal(what: string): Pattern {
  return (text) => {
    const spans: Span[] = [];
    for (let at = text.indexOf(what); at >= 0; at = text.indexOf(what, at + what.length)) {
      spans.push([at, at + what.length]);
    }
    return spans;
  };
}

/** Matches of a JavaScript regular expression of our own, one that is linear in the text. */
export function native(expression: RegExp): Pattern {
  return (text) => [...text.matchAll(expression)].map((m): Span => [m.index, m.index + m[0].length]);
}

/** @throws TokenizerError for a pattern that is malformed or uses what is not supported, such as a back reference */
export function regex(source: string, where: string): Pattern {
  if (source.length > MOST_SOURCE) {
    fail(`${where}: a pattern of ${source.length} characters; expected at most ${MOST_SOURCE}.`);
  }
  const code = new Compiler(new Parser(source, where).parse(), where).code;
  return (text, effort) => {
    const spans: Span[] = [];
    let last = -1;
    for (let at = 0; at <= text.length; ) {
      const end = run(code, text, at, effort);
      // As Oniguruma's iterator: no empty match right after a match.
      if (end < 0 || (end === at && end === last)) {
        at += widthAt(text, at);
        continue;
      }
      spans.push([at, end]);
      last = end;
      at = end;
    }
    return spans;
  };
}

const widthAt = (text: string, at: number): number => ((text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1);

/** Code points below this are looked up in an array: alphabets of most of the world's texts. */
const NEAR = 0x600;

/** Code points of one character class, asked of JavaScript's own engine once each. */
class CharSet {
  private near: Int8Array | null = null;
  private readonly far = new Map<number, boolean>();

  constructor(private readonly test: RegExp) {}

  has(point: number): boolean {
    if (point < NEAR) {
      this.near ??= new Int8Array(NEAR);
      this.near[point] ||= this.ask(point) ? 1 : -1;
      return this.near[point] > 0;
    }
    let known = this.far.get(point);
    if (known === undefined) this.far.set(point, (known = this.ask(point)));
    return known;
  }

  private ask(point: number): boolean {
    return this.test.test(String.fromCodePoint(point));
  }
}

type Assertion = (text: string, at: number) => boolean;

type Node =
  | { readonly kind: 'set'; readonly set: CharSet }
  | { readonly kind: 'assert'; readonly test: Assertion }
  | { readonly kind: 'all'; readonly items: readonly Node[] }
  | { readonly kind: 'any'; readonly items: readonly Node[] }
  | { readonly kind: 'repeat'; readonly body: Node; readonly min: number; readonly max: number; readonly lazy: boolean }
  | { readonly kind: 'atomic'; readonly body: Node }
  | { readonly kind: 'look'; readonly body: Node; readonly behind: boolean; readonly negated: boolean };

/** Oniguruma's word characters: some superscripts and fractions are among them. */
const WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}²³¹¼-¾]$/u;
const isWord = (text: string, at: number): boolean =>
  at >= 0 && at < text.length && WORD.test(String.fromCodePoint(text.codePointAt(at)!));
const before = (text: string, at: number): number =>
  at > 1 && /^[\ud800-\udbff][\udc00-\udfff]$/.test(text.slice(at - 2, at)) ? at - 2 : at - 1;
const atBoundary: Assertion = (text, at) => isWord(text, before(text, at)) !== isWord(text, at);

const ANCHORS: Readonly<Record<string, Assertion>> = {
  '^': (text, at) => at === 0 || text[at - 1] === '\n',
  $: (text, at) => at === text.length || text[at] === '\n',
  '\\A': (_, at) => at === 0,
  '\\z': (text, at) => at === text.length,
  '\\Z': (text, at) => at === text.length || (at === text.length - 1 && text[at] === '\n'),
  '\\b': atBoundary,
  '\\B': (text, at) => !atBoundary(text, at),
};

/** An escape that is one character or class of characters; back references, `\G`, `\K`, `\R` and `\X` are none. */
const ESCAPE = /\\(?:[pPxu]\{[^}]*\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|c[A-Za-z]|[^0-9GKRXgkNOyYpPxuc])/uy;
const BRACES = /\{(?:(\d+)(,(\d*))?|,(\d+))\}/y;
const GROUP = /\((?:\?(?:(<[=!]|[:=!>]|<\w+>)|(-?i)([:)])|#[^)]*\)))?/y;

class Parser {
  private at = 0;
  private depth = 0;
  private ignoreCase = false;
  private readonly sets = new Map<string, CharSet>();

  constructor(
    private readonly source: string,
    private readonly where: string,
  ) {}

  parse(): Node {
    const node = this.alternatives();
    if (this.at < this.source.length) this.refuse('a closing bracket without an opening one');
    return node;
  }

  private refuse(what: string): never {
    const where = `the pattern ${excerpt(this.source)} has ${what} at character ${this.at}`;
    return fail(`${this.where}: ${where}, which is not supported.`);
  }

  /** What the sticky expression matches here; passes it. */
  private take(expression: RegExp): RegExpExecArray | null {
    expression.lastIndex = this.at;
    const found = expression.exec(this.source);
    if (found) this.at = expression.lastIndex;
    return found;
  }

  private alternatives(): Node {
    if (++this.depth > MOST_DEPTH) this.refuse('groups nested too deep');
    const { ignoreCase } = this;
    const items = [this.sequence()];
    while (this.source[this.at] === '|') {
      this.at++;
      items.push(this.sequence());
    }
    this.ignoreCase = ignoreCase;
    this.depth--;
    return items.length === 1 ? items[0] : { kind: 'any', items };
  }

  private sequence(): Node {
    const items: Node[] = [];
    while (this.at < this.source.length && !'|)'.includes(this.source[this.at])) {
      const item = this.item();
      if (item) items.push(this.quantified(item));
    }
    return { kind: 'all', items };
  }

  private item(): Node | null {
    const char = this.source[this.at];
    if (char === '(') return this.group();
    if (char === '[') return this.set(this.classSource());
    if ('*+?'.includes(char)) this.refuse(`"${char}" with nothing to repeat`);
    const anchor = char === '\\' ? this.source.slice(this.at, this.at + 2) : char;
    if (Object.hasOwn(ANCHORS, anchor)) {
      this.at += anchor.length;
      return { kind: 'assert', test: ANCHORS[anchor] };
    }
    if (char === '\\') {
      const escape = this.take(ESCAPE);
      return escape ? this.set(escape[0]) : this.refuse('an escape');
    }
    const point = String.fromCodePoint(this.source.codePointAt(this.at)!);
    this.at += point.length;
    return this.set(point);
  }

  private group(): Node | null {
    const [whole, kind, flag, ending] = this.take(GROUP)!;
    if (whole.startsWith('(?#')) return null;
    if (whole === '(' && this.source[this.at] === '?') this.refuse('a group of an unknown kind');
    if (ending === ')') {
      // A flag in itself holds to the end of the group around it.
      this.ignoreCase = flag === 'i';
      return null;
    }
    const { ignoreCase } = this;
    if (flag !== undefined) this.ignoreCase = flag === 'i';
    const body = this.alternatives();
    if (this.source[this.at++] !== ')') this.refuse('a bracket that does not close');
    this.ignoreCase = ignoreCase;
    if (kind === '>') return { kind: 'atomic', body };
    const look = /^(<?)([=!])$/.exec(kind ?? '');
    return look ? { kind: 'look', body, behind: look[1] === '<', negated: look[2] === '!' } : body;
  }

  /** The source of a class from `[` to its `]`, classes inside included. */
  private classSource(): string {
    const begin = this.at;
    let open = 0;
    for (; this.at < this.source.length; this.at++) {
      const char = this.source[this.at];
      if (char === '\\') this.at++;
      else if (char === '[') {
        open++;
        // A bracket that comes first stands for itself.
        const first = /\^?\]/y;
        first.lastIndex = this.at + 1;
        if (first.test(this.source)) this.at = first.lastIndex - 1;
      } else if (char === ']' && --open === 0) return this.source.slice(begin, ++this.at);
    }
    this.at = begin;
    return this.refuse('a class that does not close');
  }

  private set(source: string): Node {
    // Oniguruma lets it match two letters, and they it.
    if (this.ignoreCase && source.toUpperCase().length > source.length) this.refuse('"ß" or the like without case');
    const key = `${this.ignoreCase}${source}`;
    let set = this.sets.get(key);
    if (!set) this.sets.set(key, (set = new CharSet(this.translate(source))));
    return { kind: 'set', set };
  }

  /** One character or class as a JavaScript expression, by the library's translation. */
  private translate(source: string): RegExp {
    try {
      const config = { type: 'Split', pattern: { Regex: source }, behavior: 'Isolated', invert: false } as const;
      const { pattern } = new SplitPreTokenizer(config);
      return new RegExp(`^(?:${pattern!.source})$`, this.ignoreCase ? 'iu' : 'u');
    } catch (error) {
      return fail(`${this.where}: the pattern ${excerpt(this.source)}: ${(error as Error).message}.`);
    }
  }

  private quantified(body: Node): Node {
    const char = this.source[this.at];
    if (char === '{') {
      const braces = this.take(BRACES);
      if (!braces) return body;
      const [, from, comma, to, upTo] = braces;
      const min = Number(from ?? 0);
      const max = upTo !== undefined ? Number(upTo) : comma === undefined ? min : to === '' ? Infinity : Number(to);
      if (max < min) this.refuse('a repetition whose least is more than its most');
      const lazy = comma !== undefined && this.source[this.at] === '?';
      if (lazy) this.at++;
      return this.once({ kind: 'repeat', body, min, max, lazy });
    }
    if (char === undefined || !'*+?'.includes(char)) return body;
    this.at++;
    const mode = this.source[this.at];
    if (mode === '?' || mode === '+') this.at++;
    const [min, max] = [char === '+' ? 1 : 0, char === '?' ? 1 : Infinity];
    const node: Node = { kind: 'repeat', body, min, max, lazy: mode === '?' };
    return this.once(mode === '+' ? { kind: 'atomic', body: node } : node);
  }

  private once(node: Node): Node {
    if ('*+?'.includes(this.source[this.at] ?? ' ') || this.take(BRACES)) this.refuse('one repetition after another');
    return node;
  }
}

/** Least and most characters that a part matches. */
function widths(node: Node): Span {
  switch (node.kind) {
    case 'set':
      return [1, 1];
    case 'assert':
    case 'look':
      return [0, 0];
    case 'atomic':
      return widths(node.body);
    case 'repeat': {
      const [least, most] = widths(node.body);
      return [least * node.min, most === 0 ? 0 : most * node.max];
    }
    case 'all':
      return node.items.map(widths).reduce(([a, b], [c, d]): Span => [a + c, b + d], [0, 0]);
    case 'any': {
      const all = node.items.map(widths);
      return [Math.min(...all.map(([least]) => least)), Math.max(...all.map(([, most]) => most))];
    }
  }
}

type Instruction =
  | { readonly op: 'set'; readonly set: CharSet }
  | { readonly op: 'assert'; readonly test: Assertion }
  | { readonly op: 'split'; first: number; second: number }
  | { readonly op: 'jump'; to: number }
  | { readonly op: 'atomic'; readonly code: readonly Instruction[] }
  /** `behind`: by how many characters the body begins before; 0 for a look ahead. */
  | { readonly op: 'look'; readonly code: readonly Instruction[]; readonly behind: number; readonly negated: boolean }
  | { readonly op: 'end' };

class Compiler {
  readonly code: Instruction[] = [];

  constructor(
    node: Node,
    private readonly where: string,
    /** Counts the parts of the whole pattern. */
    private readonly budget = { left: MOST_PARTS },
  ) {
    this.emit(node);
    this.push({ op: 'end' });
  }

  private push<T extends Instruction>(instruction: T): T {
    this.code.push(instruction);
    return instruction;
  }

  private inner(node: Node): readonly Instruction[] {
    return new Compiler(node, this.where, this.budget).code;
  }

  private emit(node: Node): void {
    if (--this.budget.left < 0) fail(`${this.where}: the pattern repeats too much.`);
    switch (node.kind) {
      case 'set':
        this.push({ op: 'set', set: node.set });
        return;
      case 'assert':
        this.push({ op: 'assert', test: node.test });
        return;
      case 'all':
        for (const item of node.items) this.emit(item);
        return;
      case 'any':
        this.alternatives(node.items);
        return;
      case 'atomic':
        this.push({ op: 'atomic', code: this.inner(node.body) });
        return;
      case 'look': {
        const [least, most] = widths(node.body);
        if (node.behind && least !== most) fail(`${this.where}: a look behind of no fixed width is not supported.`);
        this.push({ op: 'look', code: this.inner(node.body), behind: node.behind ? least : 0, negated: node.negated });
        return;
      }
      case 'repeat':
        this.repeat(node);
    }
  }

  private alternatives(items: readonly Node[]): void {
    const jumps = items.slice(0, -1).map((item) => {
      const split = this.push({ op: 'split', first: this.code.length + 1, second: 0 });
      this.emit(item);
      const jump = this.push({ op: 'jump', to: 0 });
      split.second = this.code.length;
      return jump;
    });
    this.emit(items.at(-1)!);
    for (const jump of jumps) jump.to = this.code.length;
  }

  private repeat({ body, min, max, lazy }: Extract<Node, { kind: 'repeat' }>): void {
    if (max > min && widths(body)[0] === 0) {
      fail(`${this.where}: a pattern that repeats what may be empty is not supported.`);
    }
    for (let i = 0; i < min; i++) this.emit(body);
    const optional = (): Extract<Instruction, { op: 'split' }> => {
      const next = this.code.length + 1;
      return this.push({ op: 'split', first: lazy ? 0 : next, second: lazy ? next : 0 });
    };
    const leave = (split: Extract<Instruction, { op: 'split' }>): void => {
      if (lazy) split.first = this.code.length;
      else split.second = this.code.length;
    };
    if (max === Infinity) {
      const begin = this.code.length;
      const split = optional();
      this.emit(body);
      this.push({ op: 'jump', to: begin });
      leave(split);
      return;
    }
    const splits = Array.from({ length: max - min }, () => {
      const split = optional();
      this.emit(body);
      return split;
    });
    for (const split of splits) leave(split);
  }
}

/** Where the match that begins at `from` ends; −1 without one. */
function run(code: readonly Instruction[], text: string, from: number, effort: Effort): number {
  // What is tried when all else fails, latest first: an instruction and a place in the text each.
  const waiting = [0, from];
  while (waiting.length > 0) {
    let at = waiting.pop()!;
    let pc = waiting.pop()!;
    for (let alive = true; alive; ) {
      effort.spend(1);
      const step = code[pc];
      switch (step.op) {
        case 'set': {
          const point = text.codePointAt(at);
          alive = point !== undefined && step.set.has(point);
          at += point !== undefined && point > 0xffff ? 2 : 1;
          pc++;
          break;
        }
        case 'split':
          waiting.push(step.second, at);
          pc = step.first;
          break;
        case 'jump':
          pc = step.to;
          break;
        case 'assert':
          alive = step.test(text, at);
          pc++;
          break;
        case 'atomic':
          at = run(step.code, text, at, effort);
          alive = at >= 0;
          pc++;
          break;
        case 'look': {
          let begin = at;
          for (let i = 0; i < step.behind; i++) begin = before(text, begin);
          const found = begin >= 0 && run(step.code, text, begin, effort) >= 0;
          alive = found !== step.negated;
          pc++;
          break;
        }
        case 'end':
          return at;
      }
    }
  }
  return -1;
}

/**
 * A text with all matches of a pattern replaced.
 * @throws ArgumentError where more than `most` characters would come of it: a file could double a text again and again
 */
export function replaceAll(text: string, pattern: Pattern, by: string, most: number, effort: Effort): string {
  const spans = pattern(text, effort);
  checkLength(spans.reduce((length, [begin, end]) => length + by.length - (end - begin), text.length), most);
  const kept = spans.map(([begin], i) => text.slice(i > 0 ? spans[i - 1][1] : 0, begin));
  return [...kept, text.slice(spans.at(-1)?.[1] ?? 0)].join(by);
}

/** @throws ArgumentError for a text of more than `most` characters */
export function checkLength(length: number, most: number): void {
  if (length > most) {
    throw new ArgumentError(`The tokenizer makes more than ${most} characters of this text: shorten it.`);
  }
}
