/**
 * Decoders of tokenizer.json, as the Rust library computes them, token by token: what a step gives out is certain
 * whatever comes next, so that pieces joined are the text of the whole.
 */
import { BYTE_OF } from './bytes.ts';
import { Effort } from './effort.ts';
import { component, type Fields, type Makers } from './fields.ts';
import { patternOf, replaceAll } from './pattern.ts';

/** One step of a decoder on one text: takes tokens and gives tokens out. */
interface Step {
  push(token: string): readonly string[];
  /** What was held back for a token that did not come. */
  end(): readonly string[];
}

/** Makes the step anew for each text. @param effort of the token at hand */
type Decoder = (effort: Effort) => Step;

/** Characters that one token may become. */
const MOST = 2 ** 18;

/** A step that sees each token alone, with its place in the text. */
const each =
  (change: (token: string, index: number, effort: Effort) => string): Decoder =>
  (effort) => {
    let index = 0;
    return { push: (token) => [change(token, index++, effort)], end: () => [] };
  };

/** Steps one after the other. */
function chain(all: readonly Decoder[]): Decoder {
  return (effort) => {
    const steps = all.map((make) => make(effort));
    const from = (first: number, tokens: readonly string[]): readonly string[] =>
      steps.slice(first).reduce((out, step) => out.flatMap((token) => step.push(token)), tokens);
    return {
      push: (token) => from(0, [token]),
      end: () => steps.flatMap((step, i) => from(i + 1, step.end())),
    };
  };
}

/** A step that holds all back until the end, and changes it then as one token. */
const whole =
  (change: Decoder): Decoder =>
  (effort) => {
    const held: string[] = [];
    return {
      push: (token) => {
        held.push(token);
        return [];
      },
      end: () => {
        const step = change(effort);
        return [...step.push(held.join('')), ...step.end()];
      },
    };
  };

/** Bytes written as characters; a token with any other character is text. */
const byteLevel: Decoder = () => {
  const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  const plain = new TextEncoder();
  return {
    push: (token) => {
      const bytes = Array.from(token, (char) => BYTE_OF.get(char));
      const known = bytes.every((byte) => byte !== undefined);
      return [utf8.decode(known ? Uint8Array.from(bytes as number[]) : plain.encode(token), { stream: true })];
    },
    end: () => [utf8.decode()],
  };
};

/** `<0x0A>` and the like: a run of bytes is text if all of it is UTF-8, else one U+FFFD a byte. */
const byteFallback: Decoder = () => {
  let bytes: number[] = [];
  const flush = (): string[] => {
    if (bytes.length === 0) return [];
    const run = Uint8Array.from(bytes);
    bytes = [];
    try {
      return [new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(run)];
    } catch {
      return Array.from(run, () => '\ufffd');
    }
  };
  return {
    push: (token) => {
      const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
      if (hex === undefined) return [...flush(), token];
      bytes.push(Number.parseInt(hex, 16));
      return [];
    },
    end: flush,
  };
};

/** The end of a word becomes a space, except at the end of the text. */
function bpe(fields: Fields): Decoder {
  const suffix = fields.text('suffix', '</w>');
  const shown = (token: string, by: string): string => (suffix === '' ? token : token.replaceAll(suffix, by));
  return () => {
    let held: string | null = null;
    return {
      push: (token) => {
        const out = held === null ? [] : [shown(held, ' ')];
        held = token;
        return out;
      },
      end: () => (held === null ? [] : [shown(held, '')]),
    };
  };
}

const CLEANED: readonly (readonly [string, string])[] = [
  [' .', '.'],
  [' ?', '?'],
  [' !', '!'],
  [' ,', ','],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [' do not', " don't"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

function wordPiece(fields: Fields): Decoder {
  const prefix = fields.text('prefix', '##');
  const cleanup = fields.flag('cleanup', true);
  return each((token, index) => {
    const joins = token.startsWith(prefix);
    const text = index === 0 ? token : joins ? token.slice(prefix.length) : ` ${token}`;
    return cleanup ? CLEANED.reduce((out, [from, to]) => out.replaceAll(from, to), text) : text;
  });
}

function metaspace(fields: Fields): Decoder {
  const replacement = fields.character('replacement', '▁');
  const prefix = fields.flag('add_prefix_space', true);
  const scheme = fields.oneOf('prepend_scheme', ['always', 'first', 'never'], prefix ? 'always' : 'never');
  fields.ignore('str_rep', 'split');
  return each((token, index) => token.replaceAll(replacement, index === 0 && scheme !== 'never' ? '' : ' '));
}

function replacing(fields: Fields): Decoder {
  const pattern = patternOf(fields);
  const content = fields.text('content');
  return each((token, _, effort) => replaceAll(token, pattern, content, MOST, effort));
}

function strip(fields: Fields): Decoder {
  const content = fields.character('content', ' ');
  const [start, stop] = [fields.whole('start', 0, 0), fields.whole('stop', 0, 0)];
  return each((token) => {
    let kept = token;
    for (let i = 0; i < start && kept.startsWith(content); i++) kept = kept.slice(content.length);
    for (let i = 0; i < stop && kept.endsWith(content); i++) kept = kept.slice(0, -content.length);
    return kept;
  });
}

/** `Strip` at the beginning of text that is joined: token by token as well, as long as nothing else has come. */
function stripStart(content: string, start: number): Decoder {
  return () => {
    let left = start;
    return {
      push: (token) => {
        let begin = 0;
        while (left > 0 && token.startsWith(content, begin)) {
          begin += content.length;
          left--;
        }
        if (begin < token.length) left = 0;
        return [token.slice(begin)];
      },
      end: () => [],
    };
  };
}

/** What follows `Fuse` sees one text: a strip of its beginning can go on token by token, all else waits for the end. */
function afterFuse(rest: readonly unknown[]): Decoder {
  if (rest.length === 0) return each((token) => token);
  const [next] = rest as readonly { type?: unknown; content?: unknown; start?: unknown; stop?: unknown }[];
  const decoder = chain(rest.map(make));
  const { type, content = ' ', start = 0, stop = 0 } = next ?? {};
  const leading = rest.length === 1 && type === 'Strip' && stop === 0;
  return leading ? stripStart(content as string, start as number) : whole(decoder);
}

function sequence(fields: Fields): Decoder {
  const all = fields.list('decoders');
  const fuse = all.findIndex((json) => (json as { type?: unknown } | null)?.type === 'Fuse');
  if (fuse < 0) return chain(all.map(make));
  return chain([...all.slice(0, fuse).map(make), afterFuse(all.slice(fuse + 1))]);
}

const MAKERS: Makers<Decoder> = {
  ByteLevel: (fields) => {
    fields.ignore('add_prefix_space', 'trim_offsets', 'use_regex');
    return byteLevel;
  },
  ByteFallback: () => byteFallback,
  BPEDecoder: bpe,
  Fuse: () => each((token) => token),
  Metaspace: metaspace,
  Replace: replacing,
  Sequence: sequence,
  Strip: strip,
  WordPiece: wordPiece,
};

const REFUSED = { CTC: 'it is for speech' };

const make = (json: unknown): Decoder => component(json, 'decoder', MAKERS, REFUSED);

/** A text that grows token by token; pieces joined are the text of all tokens. */
export interface TextSink {
  /** The text that became certain. */
  push(token: string): string;
  /** What was held back. */
  end(): string;
}

/**
 * The decoder of a file; without one, tokens are joined by spaces.
 * @throws TokenizerError for one that is not computed here
 */
export function makeDecoder(json: unknown): () => TextSink {
  const decoder = json === null || json === undefined ? each((token, i) => (i > 0 ? ` ${token}` : token)) : make(json);
  return () => {
    const effort = new Effort();
    const step = decoder(effort);
    const text = (part: () => readonly string[]): string => {
      effort.renew();
      return part().join('');
    };
    return { push: (token) => text(() => step.push(token)), end: () => text(() => step.end()) };
  };
}
