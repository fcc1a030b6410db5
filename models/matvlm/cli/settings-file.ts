import { readFileSync } from 'node:fs';
import {
  type Document,
  isMap,
  isNode,
  isScalar,
  LineCounter,
  type Node,
  parseDocument,
  stringify,
  type YAMLParseError,
} from 'yaml';
import { systemError } from '../../../engine/node/index.ts';
import { UsageError } from './errors.ts';
import { dashed, type Layer, type OptionTable } from './options.ts';
import { didYouMean } from '../suggest.ts';

/** How many values the aliases of one setting may stand for. */
const MAX_ALIASES = 100;

/**
 * Reads the settings of a YAML file. Keys are the flags' names; underscores pass for dashes.
 * @throws UsageError naming file and line for what is no YAML, no mapping, or an unknown key
 */
export function yamlLayer(path: string, table: OptionTable): Layer {
  const lines = new LineCounter();
  const document = parseDocument(readText(path), { lineCounter: lines });
  const at = (offset: number) => `${path}:${lines.linePos(offset).line}`;
  const [error] = document.errors;
  if (error) throw new UsageError(`${at(error.pos[0])}: ${wordsOf(error)}`);
  const known = new Map(Object.keys(table).map((key) => [dashed(key), key]));
  const values = new Map<string, unknown>();
  const where = new Map<string, string>();
  if (document.contents !== null && !isMap(document.contents)) {
    throw new UsageError(`${path}:1: expected settings, one "name: value" a line`);
  }
  for (const { key, value } of document.contents?.items ?? []) {
    const name = String(isScalar(key) ? key.value : key);
    const place = at(isScalar(key) ? (key.range?.[0] ?? 0) : 0);
    const found = known.get(name.replaceAll('_', '-'));
    if (found === undefined) {
      throw new UsageError(
        `${place}: unknown key "${name}"${didYouMean(name.replaceAll('_', '-'), [...known.keys()])}`,
      );
    }
    if (values.has(found)) throw new UsageError(`${place}: "${name}" is given twice`);
    values.set(found, isNode(value) ? plain(value, document, `${place}: ${name}`) : value);
    where.set(found, `${place}: ${name}`);
  }
  return { values, where: (key) => where.get(key) ?? path };
}

function wordsOf(error: YAMLParseError): string {
  if (error.code === 'MULTIPLE_DOCS') return 'a second document begins; expected one, so delete the line "---"';
  return error.message.split('\n')[0].replace(/ at line.*$/, '');
}

/** A value with its aliases resolved. The limit refuses aliases of aliases that blow up to fill the memory. */
function plain(value: Node, document: Document, where: string): unknown {
  try {
    return value.toJS(document, { maxAliasCount: MAX_ALIASES });
  } catch (error) {
    if (!(error instanceof ReferenceError)) throw error;
    throw new UsageError(`${where}: aliases of aliases that stand for too many values; write the values out`);
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw systemError('read', path, error);
  }
}

/** Settings as the YAML file that gives them again. */
export function toYaml(settings: Readonly<Record<string, unknown>>, comment: string): string {
  const entries = Object.entries(settings).map(([key, value]) => [dashed(key), value]);
  return `# ${comment}\n${stringify(Object.fromEntries(entries), { flowCollectionPadding: false, lineWidth: 0 })}`;
}
