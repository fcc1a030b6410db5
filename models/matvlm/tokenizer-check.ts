/** Checks of tokenizer.json that the library leaves out: it would build from a broken file and encode nonsense. */
import { TokenizerError } from '../../engine/errors.ts';

type Json = Record<string, unknown>;

const MODEL_TYPES = ['BPE', 'WordPiece', 'WordLevel', 'Unigram'];
/** Far above any real vocabulary; the library's tables are arrays indexed by id. */
const MAX_ID = 2 ** 22;

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function fail(message: string): never {
  throw new TokenizerError(message);
}

/** Parses a text, or takes an object as it is; `file` names it in errors. */
export function toObject(json: unknown, file: string): Json {
  let value = json;
  if (typeof json === 'string') {
    try {
      value = JSON.parse(json);
    } catch (error) {
      fail(`${file} is not JSON: ${(error as Error).message}`);
    }
  }
  return isObject(value) ? value : fail(`${file}: expected a JSON object.`);
}

function checkId(id: unknown, where: string): number {
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= MAX_ID) {
    fail(`tokenizer.json: ${where} has id ${String(id)}; expected an integer from 0 to ${MAX_ID - 1}.`);
  }
  return id;
}

/** Reads the vocabulary as token → id; for Unigram an id is the place in the list. */
function readVocab(model: Json, type: string): Map<string, number> {
  const { vocab } = model;
  if (type === 'Unigram') {
    const pieces = Array.isArray(vocab) ? vocab : fail('tokenizer.json: model.vocab of Unigram must be a list.');
    pieces.forEach((p, i) => {
      const ok = Array.isArray(p) && typeof p[0] === 'string' && Number.isFinite(p[1]);
      if (!ok) fail(`tokenizer.json: model.vocab[${i}] must be [piece, score].`);
    });
    return new Map(pieces.map((p, i) => [p[0], i]));
  }
  if (!isObject(vocab)) fail(`tokenizer.json: model.vocab of a ${type} model must be an object of token to id.`);
  const byId = new Map<number, string>();
  for (const [token, value] of Object.entries(vocab)) {
    const id = checkId(value, `the token ${JSON.stringify(token)}`);
    const other = byId.get(id);
    if (other !== undefined) {
      fail(`tokenizer.json: ${JSON.stringify(other)} and ${JSON.stringify(token)} both have id ${id}.`);
    }
    byId.set(id, token);
  }
  return new Map(Object.entries(vocab as Record<string, number>));
}

function checkMerges(model: Json, vocab: Map<string, number>): void {
  const merges = Array.isArray(model.merges) ? model.merges : fail('tokenizer.json: a BPE model needs model.merges.');
  const suffix = typeof model.continuing_subword_prefix === 'string' ? model.continuing_subword_prefix : '';
  const paired = Array.isArray(merges[0]);
  merges.forEach((merge: unknown, i) => {
    const pair = paired ? merge : typeof merge === 'string' && merge.split(' ');
    if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((p) => typeof p === 'string' && p !== '')) {
      fail(`tokenizer.json: model.merges[${i}] is ${JSON.stringify(merge)}; expected two tokens.`);
    }
    const [left, right] = pair as [string, string];
    const joined = left + (suffix !== '' && right.startsWith(suffix) ? right.slice(suffix.length) : right);
    for (const token of [left, right, joined]) {
      if (!vocab.has(token)) {
        fail(`tokenizer.json: model.merges[${i}] needs ${JSON.stringify(token)}, which model.vocab lacks.`);
      }
    }
  });
}

function checkAddedTokens(added: unknown, vocab: Map<string, number>): void {
  if (!Array.isArray(added)) fail('tokenizer.json: added_tokens must be a list.');
  const byId = new Map([...vocab].map(([token, id]) => [id, token]));
  added.forEach((entry: unknown, i) => {
    if (!isObject(entry) || typeof entry.content !== 'string' || entry.content === '') {
      fail(`tokenizer.json: added_tokens[${i}] has no content.`);
    }
    const { content } = entry;
    const id = checkId(entry.id, `added_tokens[${i}]`);
    const other = byId.get(id);
    if (other !== undefined && other !== content) {
      fail(`tokenizer.json: ${JSON.stringify(other)} and added token ${JSON.stringify(content)} both have id ${id}.`);
    }
    const known = vocab.get(content);
    if (known !== undefined && known !== id) {
      fail(`tokenizer.json: the added token ${JSON.stringify(content)} has ids ${known} and ${id}.`);
    }
    byId.set(id, content);
    vocab.set(content, id);
  });
}

/**
 * Checks the model, the vocabulary, the merges and the added tokens, and gives the vocabulary back with the added ones.
 * TokenizerError names the entry.
 */
export function checkTokenizer(json: Json): Map<string, number> {
  const model = isObject(json.model) ? json.model : fail('tokenizer.json: no model.');
  const type = model.type ?? (Array.isArray(model.merges) ? 'BPE' : undefined);
  if (typeof type !== 'string' || !MODEL_TYPES.includes(type)) {
    fail(`tokenizer.json: model type ${JSON.stringify(type)} is not one of ${MODEL_TYPES.join(', ')}.`);
  }
  const vocab = readVocab(model, type);
  if (vocab.size === 0) fail('tokenizer.json: model.vocab is empty.');
  if (type === 'BPE') checkMerges(model, vocab);
  checkAddedTokens(json.added_tokens ?? [], vocab);
  if (type === 'WordLevel' || type === 'WordPiece') {
    if (typeof model.unk_token !== 'string' || !vocab.has(model.unk_token)) {
      fail(`tokenizer.json: model.unk_token ${JSON.stringify(model.unk_token)} is not in the vocabulary.`);
    }
  }
  return vocab;
}
