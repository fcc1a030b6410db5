import { TokenizerError } from '../../errors.ts';
import { excerpt } from '../../../../engine/excerpt.ts';

export type Json = Record<string, unknown>;

export const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export function fail(message: string): never {
  throw new TokenizerError(message);
}

/**
 * Reads the fields of one object of a tokenizer file. Whoever takes the object apart asks for each field it knows and
 * ends with `end`, which refuses those that nobody asked for: they may change the ids.
 */
export class Fields {
  private readonly asked = new Set<string>();

  /** @param where the file and the place in it, for errors */
  constructor(
    private readonly json: Json,
    readonly where: string,
  ) {}

  /** The value of any kind; undefined where it is absent or null. */
  any(key: string): unknown {
    this.asked.add(key);
    const value = Object.hasOwn(this.json, key) ? this.json[key] : undefined;
    return value === null ? undefined : value;
  }

  /** @param fallback where the field is absent; it must be there if no fallback is given */
  text(key: string, fallback?: string): string {
    return this.typed(key, 'a text', (value) => typeof value === 'string', fallback);
  }

  flag(key: string, fallback?: boolean): boolean {
    return this.typed(key, 'true or false', (value) => typeof value === 'boolean', fallback);
  }

  whole(key: string, least: number, fallback?: number): number {
    const accepts = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= least;
    return this.typed(key, `a whole number from ${least}`, accepts, fallback);
  }

  /** A text of exactly one character. */
  character(key: string, fallback?: string): string {
    return this.typed(key, 'one character', (value) => typeof value === 'string' && [...value].length === 1, fallback);
  }

  oneOf<T extends string>(key: string, known: readonly T[], fallback?: T): T {
    return this.typed(key, `one of ${known.join(', ')}`, (value) => known.includes(value as T), fallback);
  }

  list(key: string): readonly unknown[] {
    return this.typed(key, 'a list', Array.isArray, []);
  }

  /** Fields that have no effect on ids and texts, or that other checks read. */
  ignore(...keys: readonly string[]): void {
    for (const key of keys) this.asked.add(key);
  }

  /** A field that is taken only where it says what is done anyway. */
  must(key: string, ...values: readonly unknown[]): void {
    const value = this.any(key);
    if (value === undefined || values.includes(value)) return;
    const expected = values.map((v) => excerpt(v)).join(' or ');
    fail(`${this.where}: ${key} is ${excerpt(value)}, which is not supported; expected ${expected}.`);
  }

  /** @throws TokenizerError for a field that was not asked for and is not null */
  end(): void {
    const odd = Object.keys(this.json).find((key) => !this.asked.has(key) && this.json[key] !== null);
    if (odd !== undefined) fail(`${this.where}: unknown field ${excerpt(odd)}; remove it if it changes nothing.`);
  }

  private typed<T>(key: string, expected: string, accepts: (value: unknown) => boolean, fallback?: T): T {
    const value = this.any(key) ?? fallback;
    if (value === undefined || !accepts(value)) {
      fail(`${this.where}: ${key} is ${excerpt(this.json[key])}; expected ${expected}.`);
    }
    return value as T;
  }
}

/** A component of tokenizer.json by its type, such as a normaliser. */
export type Makers<T> = Readonly<Record<string, (fields: Fields) => T>>;

/**
 * Makes a component of its JSON.
 * @param kind what it is, as tokenizer.json calls the place
 * @param refused known types that are not supported, with what to do
 */
export function component<T>(
  json: unknown,
  kind: string,
  makers: Makers<T>,
  refused: Readonly<Record<string, string>> = {},
): T {
  const where = `tokenizer.json: ${kind}`;
  if (!isObject(json)) fail(`${where} is ${excerpt(json)}; expected an object with a type.`);
  const fields = new Fields(json, where);
  const type = fields.any('type');
  if (typeof type !== 'string' || !Object.hasOwn(makers, type)) {
    const why = typeof type === 'string' && Object.hasOwn(refused, type) ? ` (${refused[type]})` : '';
    fail(`${where} type ${excerpt(type)} is not supported${why}; supported are ${Object.keys(makers).join(', ')}.`);
  }
  const own = new Fields(json, `${where} ${type}`);
  own.ignore('type');
  const made = makers[type](own);
  own.end();
  return made;
}
