/** Tokens that are found in a text before anything else is done to it, as the Rust library finds them. */
import type { Effort } from './effort.ts';
import type { Normalizer } from './normalizers.ts';
import { Prefixes } from './prefixes.ts';

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Marks structure, not text: left out when decoding. */
  readonly special: boolean;
  /** Looked for in the normalised text, normalised itself. */
  readonly normalized: boolean;
  /** Only where no word character stands beside it. */
  readonly singleWord: boolean;
  /** Takes the white space before or behind it along. */
  readonly lstrip: boolean;
  readonly rstrip: boolean;
}

/** A token, or a text between tokens; `first` where it begins where the whole text does. */
export type Section = { readonly id: number } | { readonly text: string; readonly first: boolean };

const beginsWithWord = (text: string): boolean =>
  /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u.test(text.slice(0, 2));
const endsWithWord = (text: string): boolean =>
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u.test(text.slice(-2));

/** Finds some added tokens by the texts they are found by. */
class Finder {
  private readonly prefixes: Prefixes;

  constructor(private readonly tokens: ReadonlyMap<string, AddedToken>) {
    this.prefixes = new Prefixes(tokens.keys());
  }

  split(text: string, first: boolean, effort: Effort): Section[] {
    const out: Section[] = [];
    let done = 0;
    const flush = (end: number): void => {
      if (end > done) out.push({ text: text.slice(done, end), first: first && done === 0 });
    };
    for (let at = 0; at < text.length && this.tokens.size > 0; ) {
      const found = this.prefixes.at(text, at, effort).at(-1);
      if (found === undefined) {
        at++;
        continue;
      }
      const token = this.tokens.get(found)!;
      let [begin, end] = [at, at + found.length];
      at = end;
      if (token.singleWord && (endsWithWord(text.slice(0, begin)) || beginsWithWord(text.slice(end)))) continue;
      if (token.lstrip) while (begin > done && /\p{White_Space}/u.test(text[begin - 1])) begin--;
      if (token.rstrip) while (end < text.length && /\p{White_Space}/u.test(text[end])) end++;
      flush(begin);
      out.push({ id: token.id });
      done = end;
      at = Math.max(at, end);
    }
    flush(text.length);
    return out;
  }
}

/** Splits texts at added tokens: first at those that are looked for as they are, then at the normalised ones. */
export class AddedTokens {
  private readonly plain: Finder;
  private readonly normalized: Finder;

  constructor(
    tokens: readonly AddedToken[],
    private readonly normalize: Normalizer,
    effort: Effort,
  ) {
    const by = (which: boolean, text: (content: string) => string) =>
      new Finder(new Map(tokens.filter((t) => t.normalized === which).map((t) => [text(t.content), t])));
    this.plain = by(false, (content) => content);
    this.normalized = by(true, (content) => normalize(content, effort));
  }

  /** Tokens and the normalised texts between them. */
  split(text: string, effort: Effort): Section[] {
    return this.plain.split(text, true, effort).flatMap((section) => {
      if ('id' in section) return [section];
      return this.normalized.split(this.normalize(section.text, effort), section.first, effort);
    });
  }
}
