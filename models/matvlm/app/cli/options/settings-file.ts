import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type ParsedNode,
  parseDocument,
  stringify,
  type YAMLParseError,
} from 'yaml';
import { excerpt, quote } from '../../../../../engine/excerpt.ts';
import { readFileWithin } from '../../../../../engine/node/index.ts';
import { ALIASES } from './aliases.ts';
import { UsageError } from '../terminal/errors.ts';
import { dashed, type Layer, type OptionTable } from './options.ts';
import { nearest } from '../../../../nn/did-you-mean.ts';

/** Bytes of a settings file at most: some hundred times what all settings of a command take. */
const LIMIT = 2 ** 17;
/** The key under which a file lists the settings that it leaves to its reader. */
const NEEDS = 'needs';
/** What a value may be: no setting is deeper, so that nothing can refer to itself. */
const DEEP = 'expected a value or a list of values';

/**
 * Reads the settings of a YAML file. Keys are the flags' names; underscores pass for dashes. Values are plain ones or
 * lists of such. `needs: [data]` names settings that the file does not give and that must be given beside it.
 * @throws UsageError naming file and line for what is no YAML, no mapping, an unknown key, or a value of another form;
 *   SystemError for what is no regular file, or one larger than any settings
 */
export async function yamlLayer(path: string, table: OptionTable): Promise<Layer> {
  const text = new TextDecoder().decode(await readFileWithin(path, LIMIT));
  const lines = new LineCounter();
  // Their own check of unique keys compares each key with all others.
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: false });
  const at = (offset: number) => `${path}:${lines.linePos(offset).line}`;
  const [error] = [...document.errors, ...document.warnings];
  if (error) throw new UsageError(`${at(error.pos[0])}: ${wordsOf(error)}`);
  if (document.contents !== null && !isMap(document.contents)) {
    throw new UsageError(`${path}:1: expected settings, one "name: value" a line`);
  }
  const known = new Map([...Object.keys(table), NEEDS].map((key) => [dashed(key), key]));
  const values = new Map<string, unknown>();
  const where = new Map<string, string>();
  for (const { key, value } of document.contents?.items ?? []) {
    const place = at(key.range[0]);
    const name = isScalar(key) && typeof key.value === 'string' ? key.value : null;
    if (name === null) throw new UsageError(`${place}: expected the name of a setting before the colon`);
    const found = known.get(name.replaceAll('_', '-'));
    if (found === undefined) throw new UsageError(`${place}: unknown key ${quote(name)}${hint(name, known.keys())}`);
    if (values.has(found)) throw new UsageError(`${place}: ${quote(name)} is given twice`);
    where.set(found, `${place}: ${name}`);
    values.set(found, value && plain(value, document, where.get(found)!));
  }
  return { values, where: (key) => where.get(key) ?? path, ...needsOf(values, known, where) };
}

/** Takes the list of what the file needs out of its values. */
function needsOf(
  values: Map<string, unknown>,
  known: ReadonlyMap<string, string>,
  where: ReadonlyMap<string, string>,
): Pick<Layer, 'needs'> {
  if (!values.has(NEEDS)) return {};
  const names = values.get(NEEDS);
  values.delete(NEEDS);
  const place = where.get(NEEDS)!;
  const keys = (Array.isArray(names) ? names : [names]).map((name: unknown) => {
    const key = known.get(String(name));
    if (key === undefined || key === NEEDS) throw new UsageError(`${place}: ${excerpt(name)} is no setting of this command`);
    return key;
  });
  return { needs: { keys, where: place } };
}

function hint(name: string, known: Iterable<string>): string {
  const meant = nearest(name, [...known], ALIASES);
  return meant === null ? '' : `; did you mean "${meant}"?`;
}

function wordsOf(error: Pick<YAMLParseError, 'code' | 'message'>): string {
  if (error.code === 'MULTIPLE_DOCS') return 'a second document begins; expected one, so delete the line "---"';
  if (error.code === 'RESOURCE_EXHAUSTION') return DEEP;
  return error.message.split('\n')[0].replace(/ at line.*$/, '');
}

/** A value, or a list of values, with aliases resolved. */
function plain(node: ParsedNode, document: Document, where: string): unknown {
  const target = isAlias(node) ? node.resolve(document) : node;
  if (isScalar(target)) return target.value;
  if (!isSeq(target)) throw new UsageError(`${where}: ${isAlias(node) ? `*${node.source} stands for no value` : DEEP}`);
  return target.items.map((item) => {
    const value = isAlias(item) ? item.resolve(document) : item;
    if (!isScalar(value)) throw new UsageError(`${where}: ${DEEP}`);
    return value.value;
  });
}

/** Settings as the YAML file that gives them again. */
export function toYaml(settings: Readonly<Record<string, unknown>>, comment: string): string {
  const entries = Object.entries(settings).map(([key, value]) => [dashed(key), value]);
  return `# ${comment}\n${stringify(Object.fromEntries(entries), { flowCollectionPadding: false, lineWidth: 0 })}`;
}
