import { Option as Flag, type Command } from 'commander';
import * as v from 'valibot';
import { cut } from '../../../../../engine/excerpt.ts';
import { UsageError } from '../terminal/errors.ts';
import { didYouMean } from '../../../../nn/did-you-mean.ts';

/** One setting: a flag of a command and a key of its YAML file, checked by one schema. */
export interface Option<T> {
  readonly about: string;
  readonly schema: v.GenericSchema<unknown, T>;
  readonly fallback: T;
  /** How help shows the value, such as `<n>`; absent for a switch. */
  readonly argument?: string;
  /** A flag's text as the value that YAML would give. */
  readonly parse: (text: string) => unknown;
}

/** The settings of a command by their names in code; flags and YAML spell them with dashes. */
export type OptionTable = Readonly<Record<string, Option<unknown>>>;

export type Settings<T extends OptionTable> = {
  readonly [K in keyof T]: T[K] extends Option<infer V> ? V : never;
};

interface Range {
  readonly min?: number;
  readonly above?: number;
  readonly max?: number;
  readonly below?: number;
  readonly whole?: boolean;
}

/**
 * A finite number within a range; both ends belong to it, `above` and `below` do not. What is no whole number ends up
 * in single precision, and may be neither too large for it nor so small that it would become 0.
 */
export function number(about: string, fallback: number, range: Range = {}): Option<number> {
  const { min = -Infinity, above = -Infinity, max = Infinity, below = Infinity, whole = false } = range;
  const within = (x: number) => x >= min && x > above && x <= max && x < below;
  const fits = (x: number) => within(x) && (whole ? Number.isSafeInteger(x) : Number.isFinite(x));
  const single = (x: number) => whole || (Number.isFinite(Math.fround(x)) && (x === 0) === (Math.fround(x) === 0));
  const schema = v.pipe(
    v.number(`expected ${rangeText(range)}`),
    v.check(fits, `expected ${rangeText(range)}`),
    v.check(single, `expected ${rangeText(range)} that single precision holds (1e-45 to 3e38)`),
  );
  return { about, schema, fallback, argument: whole ? '<n>' : '<number>', parse: parseNumber };
}

/** A whole number from `min` (1 unless given). */
export function count(about: string, fallback: number, min = 1): Option<number> {
  return number(about, fallback, { whole: true, min });
}

function rangeText({ min, above, max, below, whole }: Range): string {
  const parts = [whole ? 'a whole number' : 'a number'];
  if (min !== undefined) parts.push(`from ${min}`);
  if (above !== undefined) parts.push(`above ${above}`);
  if (max !== undefined) parts.push(`to ${max}`);
  if (below !== undefined) parts.push(`and below ${below}`);
  return parts.join(' ');
}

/** The same option with null, "not set", as its default. */
export function optional<T>(option: Option<T>): Option<T | null> {
  return { ...option, schema: v.nullable(option.schema), fallback: null };
}

/** A text without NUL, which no path can hold and no prompt means. */
function textSchema(what: string) {
  const whole = (s: string) => !s.includes('\0');
  return v.pipe(v.string(what), v.nonEmpty(what), v.check(whole, 'expected a text without NUL characters'));
}

export function text(about: string, fallback: string, argument = '<text>'): Option<string> {
  return { about, schema: textSchema('expected a text that is not empty'), fallback, argument, parse: (s) => s };
}

/** One of a few words. */
export function choice<const T extends string>(about: string, fallback: T, words: readonly T[]): Option<T> {
  const schema = v.picklist(words, ({ input }) => {
    const hint = typeof input === 'string' ? didYouMean(input, words) : '';
    return `expected ${words.join(', ')}${hint}`;
  });
  return { about, schema, fallback, argument: `<${words.join('|')}>`, parse: (s) => s };
}

/** A switch; `--no-x` turns it off again. */
export function toggle(about: string, fallback: boolean): Option<boolean> {
  return { about, schema: v.boolean('expected true or false'), fallback, parse: (s) => s };
}

/** Different texts, in flags parted by commas. */
export function texts(about: string, fallback: readonly string[], argument: string): Option<readonly string[]> {
  const what = 'expected a list of texts, none of them empty';
  const schema = v.pipe(v.array(textSchema(what), what), v.minLength(1, what), differing());
  return { about, schema, fallback, argument, parse: (s) => s.split(',').map((item) => item.trim()) };
}

/** Refuses a list that holds an item twice, and names it. */
function differing<T extends string | number>() {
  const again = (list: readonly T[]) => list.find((item, i) => list.indexOf(item) !== i);
  return v.check<T[], v.ErrorMessage<v.CheckIssue<T[]>>>(
    (list) => again(list) === undefined,
    ({ input }) => `${again(input)} is given twice; give each once`,
  );
}

/** Numbers, in flags parted by commas. @param length how many; without it any number of different ones */
export function numbers(
  about: string,
  fallback: readonly number[],
  range: Range,
  length?: number,
): Option<readonly number[]> {
  const what = `expected ${length ?? 'a list of'} numbers, each ${rangeText(range)}`;
  const items = v.array(number(about, 0, range).schema, what);
  const schema =
    length === undefined
      ? v.pipe(items, v.minLength(1, what), differing())
      : v.pipe(items, v.length(length, what));
  return { about, schema, fallback, argument: '<n,n,…>', parse: (s) => s.split(',').map(parseNumber) };
}

/** A text that is no number stays one: the schema tells what was expected. */
function parseNumber(s: string): unknown {
  return s.trim() !== '' && !Number.isNaN(Number(s)) ? Number(s) : s;
}

/** `weightDecay` → `weight-decay`. */
export function dashed(key: string): string {
  return key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
}

/** Adds a table's flags to a command. They have no defaults there, so that a YAML file can come between. */
export function addOptions(command: Command, table: OptionTable): void {
  for (const [key, option] of Object.entries(table)) {
    const name = `--${dashed(key)}`;
    const shown = show(option.fallback);
    const about = shown === '' ? option.about : `${option.about} (default: ${shown})`;
    if (option.argument) {
      command.addOption(new Flag(`${name} ${option.argument}`, about));
      continue;
    }
    const off = new Flag(`--no-${dashed(key)}`, `do not ${option.about}`);
    command.addOption(new Flag(name, option.about).hideHelp(option.fallback === true));
    command.addOption(off.hideHelp(option.fallback !== true));
  }
}

function show(value: unknown): string {
  if (value === null || value === false || value === '') return '';
  return value === true ? 'on' : String(value);
}

/** Values from one source. Later layers win over earlier ones. */
export interface Layer {
  readonly values: ReadonlyMap<string, unknown>;
  /** What errors call a value: the flag, or file and line. */
  readonly where: (key: string) => string;
  /** Settings that a file leaves to its reader, who must give them; what errors call the place that says so. */
  readonly needs?: { readonly keys: readonly string[]; readonly where: string };
}

/** What was given on the command line. @param given commander's options */
export function flagLayer(table: OptionTable, given: Readonly<Record<string, unknown>>): Layer {
  const values = new Map<string, unknown>();
  for (const [key, option] of Object.entries(table)) {
    const value = given[key];
    if (value !== undefined) values.set(key, typeof value === 'string' ? option.parse(value) : value);
  }
  return { values, where: (key) => `--${dashed(key)}` };
}

/**
 * Merges layers over the defaults and checks each value.
 * @throws UsageError naming flag or file and line, also for a setting that a file needs and no layer gives
 */
export function resolve<T extends OptionTable>(table: T, layers: readonly Layer[]): Settings<T> {
  for (const { needs } of layers) {
    const missing = needs?.keys.filter((key) => !layers.some(({ values }) => values.has(key))) ?? [];
    if (missing.length === 0) continue;
    const flags = missing.map((key) => `--${dashed(key)} ${table[key].argument ?? ''}`.trim());
    const names = missing.map(dashed).join(', ');
    throw new UsageError(`${needs!.where}: this file leaves ${names} to you: give ${flags.join(' and ')}`);
  }
  const settings: Record<string, unknown> = {};
  for (const [key, option] of Object.entries(table)) {
    const layer = [...layers].reverse().find(({ values }) => values.has(key));
    settings[key] = layer ? check(option, layer, key) : option.fallback;
  }
  return settings as Settings<T>;
}

function check(option: Option<unknown>, layer: Layer, key: string): unknown {
  const value = layer.values.get(key);
  const result = v.safeParse(option.schema, value);
  if (result.success) return result.output;
  throw new UsageError(`${layer.where(key)}: ${result.issues[0].message}, got ${cut(spelled(value), 200)}`);
}

/** A value as JSON, with the numbers that JSON does not have. */
function spelled(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(spelled).join(',')}]`;
  return typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value));
}
