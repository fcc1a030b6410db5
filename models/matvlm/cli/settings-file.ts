import { readFileSync } from 'node:fs';
import { isMap, isScalar, LineCounter, parseDocument, stringify } from 'yaml';
import { systemError } from '../../../engine/node/index.ts';
import { UsageError } from './errors.ts';
import { dashed, type Layer, type OptionTable } from './options.ts';
import { didYouMean } from '../suggest.ts';

/**
 * Reads the settings of a YAML file. Keys are the flags' names; underscores pass for dashes.
 * @throws UsageError naming file and line for what is no YAML, no mapping, or an unknown key
 */
export function yamlLayer(path: string, table: OptionTable): Layer {
  const lines = new LineCounter();
  const document = parseDocument(readText(path), { lineCounter: lines });
  const at = (offset: number) => `${path}:${lines.linePos(offset).line}`;
  const [error] = document.errors;
  if (error) throw new UsageError(`${at(error.pos[0])}: ${error.message.split('\n')[0].replace(/ at line.*$/, '')}`);
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
    values.set(found, value === null ? null : (value as { toJSON(): unknown }).toJSON());
    where.set(found, `${place}: ${name}`);
  }
  return { values, where: (key) => where.get(key) ?? path };
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
