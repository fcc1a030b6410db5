/** The vocabulary of tokenizer.json, checked: a broken one would encode nonsense. */
import { excerpt } from '../../../../engine/excerpt.ts';
import type { Merge } from './bpe.ts';
import { fail, isObject, type Json } from './fields.ts';

/** Far above any real vocabulary. */
const MAX_ID = 2 ** 22;

/** @throws TokenizerError for what is no id */
export function checkId(id: unknown, where: string): number {
  if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= MAX_ID) {
    fail(`${where} has id ${excerpt(id)}; expected an integer from 0 to ${MAX_ID - 1}.`);
  }
  return id as number;
}

/** Token → id; for Unigram an id is the place in the list. */
function readIds(model: Json, type: string): Map<string, number> {
  const { vocab } = model;
  if (type === 'Unigram') {
    const pieces = Array.isArray(vocab) ? vocab : fail('tokenizer.json: model.vocab of Unigram must be a list.');
    pieces.forEach((p, i) => {
      const ok = Array.isArray(p) && typeof p[0] === 'string' && Number.isFinite(p[1]);
      if (!ok) fail(`tokenizer.json: model.vocab[${i}] is ${excerpt(p)}; expected [piece, score].`);
    });
    return new Map(pieces.map((p, i) => [p[0], i]));
  }
  if (!isObject(vocab)) fail(`tokenizer.json: model.vocab of a ${type} model must be an object of token to id.`);
  const byId = new Map<number, string>();
  for (const [token, value] of Object.entries(vocab)) {
    const id = checkId(value, `tokenizer.json: the token ${excerpt(token)}`);
    const other = byId.get(id);
    if (other !== undefined) fail(`tokenizer.json: ${excerpt(other)} and ${excerpt(token)} both have id ${id}.`);
    byId.set(id, token);
  }
  return new Map(Object.entries(vocab as Record<string, number>));
}

/** The merges of a BPE model as ids. */
function readMerges(model: Json, ids: ReadonlyMap<string, number>): Merge[] {
  const merges = Array.isArray(model.merges) ? model.merges : fail('tokenizer.json: a BPE model needs model.merges.');
  const paired = Array.isArray(merges[0]);
  return merges.map((merge: unknown, i): Merge => {
    const pair = paired ? merge : typeof merge === 'string' && merge.split(' ');
    if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((p) => typeof p === 'string' && p !== '')) {
      fail(`tokenizer.json: model.merges[${i}] is ${excerpt(merge)}; expected two tokens.`);
    }
    const [left, right] = pair as [string, string];
    const idOf = (token: string): number =>
      ids.get(token) ?? fail(`tokenizer.json: model.merges[${i}] needs ${excerpt(token)}, which model.vocab lacks.`);
    return [idOf(left), idOf(right), idOf(left + right)];
  });
}

/** A model as the file describes it. */
export interface Vocabulary {
  readonly type: string;
  readonly model: Json;
  /** Without added tokens. */
  readonly ids: Map<string, number>;
  /** None but for BPE. */
  readonly merges: readonly Merge[];
}

/**
 * Checks the model, its vocabulary and its merges.
 * @param types models that are supported
 * @throws TokenizerError that names the entry
 */
export function readVocabulary(json: Json, types: readonly string[]): Vocabulary {
  const model = isObject(json.model) ? json.model : fail('tokenizer.json: no model.');
  const type = model.type ?? (Array.isArray(model.merges) ? 'BPE' : undefined);
  if (typeof type !== 'string' || !types.includes(type)) {
    fail(`tokenizer.json: model type ${excerpt(type)} is not one of ${types.join(', ')}.`);
  }
  const ids = readIds(model, type);
  if (ids.size === 0) fail('tokenizer.json: model.vocab is empty.');
  return { type, model, ids, merges: type === 'BPE' ? readMerges(model, ids) : [] };
}
