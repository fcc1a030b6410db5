/** Prompt templates: what stands around an image, a question and an answer, and which tokens carry a loss. */
import { ArgumentError } from '../../engine/errors.ts';
import { cut, quote } from '../../engine/excerpt.ts';
import type { Tokenizer } from '../nn/text/tokenizer.ts';

/** Stands in `input_ids` where the image features go. */
export const IMAGE_ID = -200;
/** Label of a token that carries no loss. */
export const IGNORE_LABEL = -100;
const IMAGE_MARK = '<image>';
/** Longest question or answer, in characters; a context of 2048 tokens is full long before. */
export const MAX_PROMPT = 100_000;

export interface Template {
  /** Before the first turn, with what parts it from the turn. */
  readonly system: string;
  /** Opens a turn. */
  readonly user: string;
  /** Between question and answer; an answer follows after one space. */
  readonly assistant: string;
}

/** Templates by the name that config.json stores as `conv_version`. */
export const TEMPLATES: Readonly<Record<string, Template>> = {
  /** TinyLLaVA's for Phi-2. */
  phi: {
    system:
      'A chat between a curious user and an artificial intelligence assistant. ' +
      "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
    user: 'USER: ',
    assistant: ' ASSISTANT:',
  },
  /** Without the system line, for tiny models: every token costs a pass through the decoder. */
  short: { system: '', user: 'USER: ', assistant: ' ASSISTANT:' },
};

/** A question with the answer it got; the last turn of a prompt has none yet. */
export interface Turn {
  readonly question: string;
  /** Blank where the model ended at once, which only turns before the last may be. */
  readonly answer?: string;
}

/** Token ids with their labels: the id itself where the loss counts, −100 elsewhere. */
export interface EncodedPrompt {
  readonly ids: Int32Array;
  readonly labels: Int32Array;
}

const CACHE_SIZE = 4096;

function isPrefix(prefix: readonly number[], of: readonly number[]): boolean {
  return prefix.length <= of.length && prefix.every((id, i) => id === of[i]);
}

function concat(parts: readonly EncodedPrompt[]): EncodedPrompt {
  const join = (key: 'ids' | 'labels'): Int32Array => Int32Array.from(parts.flatMap((p) => [...p[key]]));
  return { ids: join('ids'), labels: join('labels') };
}

/**
 * Encodes prompts of one template with one tokenizer.
 *
 * A prompt is the prefix, which ends right at the image, then the first question, then further turns. The text on
 * either side of `<image>` is tokenized apart, so many questions on one image can share the prefix and its states.
 * Arrays that it returns may be shared between calls: do not write to them.
 */
export class PromptEncoder {
  readonly name: string;
  private readonly tokenizer: Tokenizer;
  private readonly template: Template;
  private readonly prefix: EncodedPrompt;
  /** Ids that only the template may set. */
  private readonly control: ReadonlySet<number>;
  private readonly cache = new Map<string, EncodedPrompt>();

  /**
   * @param name a key of TEMPLATES; ArgumentError for any other
   * @param ends further ids that end an answer, such as those of config.json: none may be asked or answered, but for
   *   ids that the template's own text has
   */
  constructor(tokenizer: Tokenizer, name: string, ends: readonly number[] = []) {
    if (!Object.hasOwn(TEMPLATES, name)) {
      const known = Object.keys(TEMPLATES).join(', ');
      throw new ArgumentError(`conv_version ${quote(name)} is no prompt template; known are ${known}.`);
    }
    this.name = name;
    this.tokenizer = tokenizer;
    this.template = TEMPLATES[name];
    const { system, user, assistant } = this.template;
    const own = tokenizer.encode(system + user);
    const all = [...own, ...tokenizer.encode(`\n${assistant}`)];
    checkIds(all, `text of the template ${name}`, tokenizer, tokenizer.controlIds);
    this.control = new Set([...tokenizer.controlIds, ...ends.filter((id) => !all.includes(id))]);
    const ids = Int32Array.from([...tokenizer.before, ...own, IMAGE_ID]);
    this.prefix = { ids, labels: new Int32Array(ids.length).fill(IGNORE_LABEL) };
  }

  /** All up to and including the image placeholder; the same for every question. */
  prefixIds(): Int32Array {
    return this.prefix.ids;
  }

  /**
   * What follows the image: the question, and with an answer also the answer and the end of text, which carry labels.
   * @throws ArgumentError for an empty, too long or forbidden question or answer, see `checkPromptText`
   */
  questionIds(question: string, answer?: string): EncodedPrompt {
    const key = JSON.stringify([question, answer]);
    const known = this.cache.get(key);
    if (known !== undefined) return known;
    const encoded = this.encodeTurn('\n', { question, answer });
    if (this.cache.size >= CACHE_SIZE) this.cache.clear();
    this.cache.set(key, encoded);
    return encoded;
  }

  /**
   * A whole conversation about one image: `prefixIds`, then `questionIds` of the first turn, then further turns.
   * @throws ArgumentError without a turn, for a turn before the last without an answer, or for a forbidden text
   */
  encode(turns: readonly Turn[]): EncodedPrompt {
    return concat([this.prefix, ...this.encodeTurns('\n', turns)]);
  }

  /** A whole conversation without an image: system line, then the turns. @throws ArgumentError as `encode` */
  encodeTextOnly(turns: readonly Turn[]): EncodedPrompt {
    return concat(this.encodeTurns(this.template.system + this.template.user, turns, true));
  }

  /** @param addSpecial with what the tokenizer puts before a text, once */
  private encodeTurns(opening: string, turns: readonly Turn[], addSpecial = false): EncodedPrompt[] {
    if (turns.length === 0) throw new ArgumentError('A prompt needs at least one question.');
    return turns.map((turn, i) => {
      const last = i === turns.length - 1;
      if (turn.answer === undefined && !last) {
        throw new ArgumentError(`Turn ${i + 1} of ${turns.length} has no answer; only the last may lack it.`);
      }
      const blank = !last && turn.answer?.trim() === '';
      return this.encodeTurn(i === 0 ? opening : this.template.user, turn, { addSpecial: addSpecial && i === 0, blank });
    });
  }

  /** One turn, tokenized in one piece; labels begin with the answer. A blank one is the end of text alone. */
  private encodeTurn(opening: string, turn: Turn, { addSpecial = false, blank = false } = {}): EncodedPrompt {
    checkPromptText(turn.question, 'question', this.tokenizer);
    const asked = opening + turn.question + this.template.assistant;
    const encode = (text: string, what: 'question' | 'answer'): number[] => {
      const ids = this.tokenizer.encode(text);
      checkIds(ids, what, this.tokenizer, this.control);
      return addSpecial ? [...this.tokenizer.before, ...ids] : ids;
    };
    const prompt = encode(asked, 'question');
    if (turn.answer === undefined) {
      return { ids: Int32Array.from(prompt), labels: new Int32Array(prompt.length).fill(IGNORE_LABEL) };
    }
    if (!blank) checkPromptText(turn.answer, 'answer', this.tokenizer);
    const whole = blank ? prompt : encode(`${asked} ${turn.answer}`, 'answer');
    if (!isPrefix(prompt, whole)) {
      throw new ArgumentError(
        `The tokenizer merges ${quote(this.template.assistant)} with the answer ` +
          `${quote(cut(turn.answer, 40))}: what is learnt could not be told from what is asked.`,
      );
    }
    const ids = Int32Array.from([...whole, this.tokenizer.eosId]);
    return { ids, labels: ids.map((id, i) => (i < prompt.length ? IGNORE_LABEL : id)) };
  }
}

/**
 * Refuses (ArgumentError) ids that only a template may set, however they came about: a normaliser may make a special
 * token of letters that look otherwise, and a token that ends texts need not be marked special.
 */
function checkIds(ids: readonly number[], what: string, tokenizer: Tokenizer, control: ReadonlySet<number>): void {
  const found = ids.find((id) => control.has(id));
  if (found === undefined) return;
  const token = quote(tokenizer.tokenOf(found) ?? '');
  throw new ArgumentError(`The ${what} becomes ${token} for the tokenizer, which only the prompt template may set; remove it.`);
}

/**
 * Refuses (ArgumentError) a question or answer that is empty, longer than MAX_PROMPT characters, or that holds NUL,
 * the image mark or a special token: typed by a user, those would pass for the template's own.
 */
function checkPromptText(text: string, what: 'question' | 'answer', tokenizer: Tokenizer): void {
  const refuse = (why: string): never => {
    throw new ArgumentError(`The ${what} ${why}`);
  };
  if (typeof text !== 'string') refuse('is not a text.');
  if (text.trim() === '') refuse('is empty.');
  if (text.length > MAX_PROMPT) refuse(`has ${text.length} characters; at most ${MAX_PROMPT} are taken.`);
  if (text.includes('\0')) refuse('holds a NUL character; remove it.');
  for (const mark of [IMAGE_MARK, ...tokenizer.specialTokens]) {
    if (text.includes(mark)) refuse(`holds ${cut(mark, 60)}, which only the prompt template may set; remove it.`);
  }
}
