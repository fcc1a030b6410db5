/** Post-processors of tokenizer.json: the ids that are put around those of a text. */
import { excerpt } from '../../../../engine/excerpt.ts';
import { component, fail, type Fields, isObject, type Makers } from './fields.ts';

/** What stands around a text. */
export interface Around {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

const NOTHING: Around = { before: [], after: [] };

/** `sep` or `cls` of the older processors: [token, id]. */
function pair(fields: Fields, key: string): number {
  const value = fields.any(key);
  if (Array.isArray(value) && value.length === 2 && Number.isInteger(value[1])) return value[1] as number;
  return fail(`${fields.where}: ${key} is ${excerpt(value)}; expected [token, id].`);
}

function classAndSeparator(fields: Fields): Around {
  fields.ignore('trim_offsets', 'add_prefix_space');
  return { before: [pair(fields, 'cls')], after: [pair(fields, 'sep')] };
}

/** The template of one text: its sequence once, with special tokens around it. */
function template(fields: Fields): Around {
  fields.ignore('pair');
  const special = fields.any('special_tokens') ?? {};
  const idsOf = (name: unknown): number[] => {
    const entry = isObject(special) && typeof name === 'string' && Object.hasOwn(special, name) ? special[name] : null;
    const ids = isObject(entry) ? entry.ids : undefined;
    if (Array.isArray(ids) && ids.every((id) => Number.isInteger(id))) return ids as number[];
    return fail(`${fields.where}: single names ${excerpt(name)}, which special_tokens lacks.`);
  };
  const parts: (number[] | 'text')[] = fields.list('single').map((item) => {
    const [kind, value] = isObject(item) ? (Object.entries(item)[0] ?? []) : [];
    if (kind === 'Sequence' && isObject(value) && value.id === 'A') return 'text';
    if (kind === 'SpecialToken' && isObject(value)) return idsOf(value.id);
    return fail(`${fields.where}: single holds ${excerpt(item)}; expected special tokens and the sequence A.`);
  });
  const at = parts.indexOf('text');
  if (at < 0 || parts.lastIndexOf('text') !== at) fail(`${fields.where}: single must hold the sequence A once.`);
  const flat = (some: typeof parts) => some.flatMap((part) => (part === 'text' ? [] : part));
  return { before: flat(parts.slice(0, at)), after: flat(parts.slice(at + 1)) };
}

const MAKERS: Makers<Around> = {
  BertProcessing: classAndSeparator,
  RobertaProcessing: classAndSeparator,
  ByteLevel: (fields) => {
    fields.ignore('add_prefix_space', 'trim_offsets', 'use_regex');
    return NOTHING;
  },
  TemplateProcessing: template,
  Sequence: (fields) =>
    fields
      .list('processors')
      .map(make)
      .reduce((inner, outer) => {
        return { before: [...outer.before, ...inner.before], after: [...inner.after, ...outer.after] };
      }, NOTHING),
};

const make = (json: unknown): Around => component(json, 'post_processor', MAKERS);

/** What a file puts around a text. @param isId whether the vocabulary has an id */
export function makeAround(json: unknown, isId: (id: number) => boolean): Around {
  const around = json === null || json === undefined ? NOTHING : make(json);
  const odd = [...around.before, ...around.after].find((id) => !isId(id));
  if (odd !== undefined) fail(`tokenizer.json: post_processor puts id ${odd}, which the vocabulary lacks.`);
  return around;
}
