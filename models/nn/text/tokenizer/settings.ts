/**
 * tokenizer_config.json and its older companions special_tokens_map.json and added_tokens.json. What they say of tokens
 * adds to tokenizer.json; what they say of the text's preparation must be what tokenizer.json does, or changes it as
 * the Python library does. Of no effect here are lengths, sides, templates of chats, names of classes, and
 * clean_up_tokenization_spaces: texts are given as the decoder makes them.
 */
import { excerpt } from '../../../../engine/excerpt.ts';
import type { AddedToken } from './added-tokens.ts';
import { fail, Fields, isObject, type Json } from './fields.ts';
import { checkId } from './vocabulary.ts';

const CONFIG = 'tokenizer_config.json';
const MAP = 'special_tokens_map.json';

/** Longest added token, in characters. */
const MOST_CONTENT = 1024;

/** Keys that name one special token each. */
const NAMED = ['bos_token', 'eos_token', 'pad_token', 'unk_token', 'sep_token', 'cls_token', 'mask_token'] as const;
type Named = (typeof NAMED)[number];
/** Keys that name further ones: a list, or an object of names to tokens. */
const FURTHER = ['additional_special_tokens', 'extra_special_tokens'];

/** The files of a tokenizer beside tokenizer.json, parsed; the last two are null where they are not there. */
export interface SettingsFiles {
  readonly config: Json;
  readonly specialTokensMap: Json | null;
  readonly addedTokens: Json | null;
}

export interface Settings {
  readonly added: readonly AddedToken[];
  /** Ids of the named special tokens. */
  readonly named: Readonly<Partial<Record<Named, number>>>;
  /** Ids of the further special tokens. */
  readonly further: readonly number[];
  /** Whether to put bos before and eos behind a text; undefined where only the post-processor tells. */
  readonly addBos: boolean | undefined;
  readonly addEos: boolean | undefined;
}

/** A token as these files write it: its content, or an object with content and flags. */
function tokenOf(value: unknown, where: string): Json & { content: string } {
  if (typeof value === 'string') return { content: value };
  if (isObject(value) && typeof value.content === 'string') return value as Json & { content: string };
  return fail(`${where} is ${excerpt(value)}; it must be a text or an object with content.`);
}

function addedToken(json: Json, id: number, where: string): AddedToken {
  const fields = new Fields(json, where);
  const content = fields.text('content');
  if (content === '') fail(`${where} has no content.`);
  if (content.length > MOST_CONTENT) {
    fail(`${where} has ${content.length} characters; expected at most ${MOST_CONTENT}.`);
  }
  const special = fields.flag('special', false);
  const token = {
    id,
    content,
    special,
    normalized: fields.flag('normalized', !special),
    singleWord: fields.flag('single_word', false),
    lstrip: fields.flag('lstrip', false),
    rstrip: fields.flag('rstrip', false),
  };
  fields.ignore('id', '__type');
  fields.end();
  return token;
}

/** Collects added tokens and holds them against the vocabulary. */
class Collection {
  readonly tokens = new Map<string, AddedToken>();
  private readonly ids: Map<string, number>;
  private readonly contents: Map<number, string>;

  constructor(vocabulary: ReadonlyMap<string, number>) {
    this.ids = new Map(vocabulary);
    this.contents = new Map([...vocabulary].map(([token, id]) => [id, token]));
  }

  /** A later one of the same content takes the place of an earlier one. */
  add(token: AddedToken, where: string): void {
    const { id, content } = token;
    const other = this.contents.get(id);
    if (other !== undefined && other !== content) {
      fail(`${where}: ${excerpt(other)} and added token ${excerpt(content)} both have id ${id}.`);
    }
    const known = this.ids.get(content);
    if (known !== undefined && known !== id) {
      fail(`${where}: the added token ${excerpt(content)} has ids ${known} and ${id}.`);
    }
    this.ids.set(content, id);
    this.contents.set(id, content);
    this.tokens.set(content, token);
  }

  /** The id of a special token; one that was ordinary becomes an added one. */
  special(value: unknown, where: string): number {
    const json = tokenOf(value, where);
    const id = this.ids.get(json.content);
    if (id === undefined) {
      return fail(`${where} ${excerpt(json.content)} is not in tokenizer.json; add it there, or remove it here.`);
    }
    if (!this.tokens.has(json.content)) this.add(addedToken({ ...json, special: true }, id, where), where);
    return id;
  }
}

/** The value of a key in both files; where they differ it is an error that names both. */
function eitherOf(key: string, { config, specialTokensMap }: SettingsFiles): unknown {
  const [here, there] = [config[key] ?? null, specialTokensMap?.[key] ?? null];
  // A configuration with added_tokens_decoder says all: the older file beside it is not read.
  if (there === null || config.added_tokens_decoder !== undefined) return here;
  const content = (value: unknown) => JSON.stringify(contentsOf(value, key));
  if (here !== null && content(here) !== content(there)) {
    fail(`${CONFIG}: ${key} is ${excerpt(here)}, but in ${MAP} it is ${excerpt(there)}; make them agree.`);
  }
  return there;
}

function contentsOf(value: unknown, key: string): unknown {
  if (Array.isArray(value)) return value.map((item) => contentsOf(item, key));
  return tokenOf(value, key).content;
}

/** @throws TokenizerError for what contradicts tokenizer.json */
export function readSettings(tokenizer: Json, vocabulary: ReadonlyMap<string, number>, files: SettingsFiles): Settings {
  const { config } = files;
  const all = new Collection(vocabulary);
  const own = tokenizer.added_tokens ?? [];
  if (!Array.isArray(own)) fail('tokenizer.json: added_tokens must be a list.');
  own.forEach((entry: unknown, i) => {
    const where = `tokenizer.json: added_tokens[${i}]`;
    const json = isObject(entry) ? entry : fail(`${where} is ${excerpt(entry)}; expected an object.`);
    all.add(addedToken(json, checkId(json.id, where), where), 'tokenizer.json');
  });
  addOlder(all, files);
  const named: Partial<Record<Named, number>> = {};
  for (const key of NAMED) {
    const value = eitherOf(key, files);
    if (value !== null) named[key] = all.special(value, `${CONFIG}: ${key}`);
  }
  const further = FURTHER.flatMap((key) => {
    const value = eitherOf(key, files);
    if (value === null) return [];
    const items = isObject(value) || Array.isArray(value) ? Object.values(value) : [value];
    return items.map((item) => all.special(item, `${CONFIG}: ${key}`));
  });
  const flags = new Fields(config, CONFIG);
  const flag = (key: string) => (flags.any(key) === undefined ? undefined : flags.flag(key));
  const [addBos, addEos] = [flag('add_bos_token'), flag('add_eos_token')];
  return { added: [...all.tokens.values()], named, further, addBos, addEos };
}

/** Added tokens of the configuration, or of the older file where it has none. */
function addOlder(all: Collection, { config, addedTokens }: SettingsFiles): void {
  const decoder = config.added_tokens_decoder;
  if (decoder === undefined || decoder === null) {
    for (const [content, id] of Object.entries(addedTokens ?? {})) {
      const where = `added_tokens.json: ${excerpt(content)}`;
      const token = all.tokens.get(content) ?? addedToken({ content }, checkId(id, where), where);
      all.add({ ...token, id: checkId(id, where) }, 'added_tokens.json');
    }
    return;
  }
  const where = `${CONFIG}: added_tokens_decoder`;
  if (!isObject(decoder)) fail(`${where} is ${excerpt(decoder)}; expected an object of id to token.`);
  for (const [id, value] of Object.entries(decoder)) {
    const at = `${where}[${excerpt(id)}]`;
    all.add(addedToken(tokenOf(value, at), checkId(/^\d{1,9}$/.test(id) ? Number(id) : id, at), at), CONFIG);
  }
}

/** A component with some of its fields changed, where it is of that type; null if it is not. */
function changed(json: unknown, type: string, fields: Json): Json | null {
  return isObject(json) && json.type === type ? { ...json, ...fields } : null;
}

/** All components of one place, those in sequences one by one. */
function parts(json: unknown): Json[] {
  if (!isObject(json)) return [];
  const inside = json.normalizers ?? json.pretokenizers;
  return json.type === 'Sequence' && Array.isArray(inside) ? inside.flatMap(parts) : [json];
}

/**
 * tokenizer.json with what the configuration changes of the text's preparation, as the Python library does it.
 * @throws TokenizerError naming the key and what stands against it in tokenizer.json
 */
export function withSettings(tokenizer: Json, config: Json): Json {
  const fields = new Fields(config, CONFIG);
  fields.must('do_lowercase_and_remove_accent', false);
  fields.must('split_special_tokens', false);
  fields.must('errors', 'replace');
  const sampling = fields.any('sp_model_kwargs');
  if (isObject(sampling) && sampling.enable_sampling) {
    fail(`${CONFIG}: sp_model_kwargs asks for sampling, which is not supported.`);
  }
  const mapped = fields.any('auto_map');
  if (isObject(mapped) && mapped.AutoTokenizer) {
    fail(
      `${CONFIG}: auto_map names a tokenizer with code of its own, which is not supported; ` +
        'remove it if tokenizer.json says all.',
    );
  }
  return withPrefixSpace({ ...tokenizer, normalizer: withCase(tokenizer.normalizer, fields) }, fields);
}

/** BERT's switches change its normaliser. */
function withCase(normalizer: unknown, fields: Fields): unknown {
  const switches = {
    lowercase: 'do_lower_case',
    strip_accents: 'strip_accents',
    handle_chinese_chars: 'tokenize_chinese_chars',
  };
  const said = Object.entries(switches).filter(([, key]) => fields.any(key) !== undefined);
  const flags = Object.fromEntries(said.map(([to, key]) => [to, fields.flag(key)]));
  const bert = changed(normalizer, 'BertNormalizer', flags);
  if (bert) return bert;
  const lowers = parts(normalizer).some(({ type, lowercase }) => type === 'Lowercase' || lowercase === true);
  const lower = fields.any('do_lower_case');
  if (lower !== undefined && lower !== lowers) {
    const there = `tokenizer.json's normalizer ${lowers ? 'has' : 'lacks'} Lowercase`;
    fail(`${CONFIG}: do_lower_case is ${excerpt(lower)}, but ${there}; make them agree.`);
  }
  return normalizer;
}

/** `add_prefix_space` changes a byte-level pre-tokeniser; any other must agree. */
function withPrefixSpace(tokenizer: Json, fields: Fields): Json {
  if (fields.any('add_prefix_space') === undefined) return tokenizer;
  const wanted = fields.flag('add_prefix_space');
  const byteLevel = changed(tokenizer.pre_tokenizer, 'ByteLevel', { add_prefix_space: wanted });
  if (byteLevel) return { ...tokenizer, pre_tokenizer: byteLevel };
  const prefixes = [...parts(tokenizer.pre_tokenizer), ...parts(tokenizer.normalizer)].some(
    ({ type, add_prefix_space = true, prepend_scheme }) =>
      type === 'Prepend' ||
      (type === 'ByteLevel' && add_prefix_space === true) ||
      (type === 'Metaspace' && (prepend_scheme ?? (add_prefix_space === true ? 'always' : 'never')) !== 'never'),
  );
  if (wanted === prefixes) return tokenizer;
  const there = `tokenizer.json ${prefixes ? 'puts' : 'does not put'} a space before a text`;
  return fail(`${CONFIG}: add_prefix_space is ${wanted}, but ${there}; make them agree.`);
}
