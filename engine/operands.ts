/**
 * How an op names what it takes and what it gives: `x` is always there, `mask?` may be absent, and `xs*`, the last of
 * its list, is any number of them.
 */
export type Named<N extends string, T> = {
  readonly [K in N as K extends `${string}?` | `${string}*` ? never : K]: T;
} & { readonly [K in N as K extends `${infer B}?` ? B : never]?: T } & {
  readonly [K in N as K extends `${infer B}*` ? B : never]: readonly T[];
};

/** `T` for each operand, whether it may be absent or not, and a list of them for a list. */
export type Each<N extends string, T> = {
  readonly [K in N as K extends `${string}*` ? never : Bare<K>]: T;
} & { readonly [K in N as K extends `${infer B}*` ? B : never]: readonly T[] };

/** An operand's name without its mark. */
export type Bare<N extends string> = N extends `${infer B}?` | `${infer B}*` ? B : N;

/** Names as ops declare them, taken apart. */
export class Operands {
  /** Without marks, in order. */
  readonly names: readonly string[];
  /** Whether the last is a list. */
  readonly listed: boolean;
  /** How many names stand for one operand each. */
  readonly single: number;
  /** Those that may be absent; a list may be empty. */
  private readonly optional: ReadonlySet<string>;

  constructor(declared: readonly string[]) {
    this.names = declared.map((name) => name.replace(/[?*]$/, ''));
    this.listed = declared.at(-1)?.endsWith('*') ?? false;
    this.single = this.names.length - (this.listed ? 1 : 0);
    this.optional = new Set(this.names.filter((name, i) => name !== declared[i]));
  }

  /** What stands under the names, in their order, the list's items last; undefined where one is absent, or null. */
  flat<T>(named: object): (T | undefined)[] {
    const values = named as Readonly<Record<string, T | undefined>>;
    const flat: (T | undefined)[] = [];
    for (let i = 0; i < this.single; i++) flat.push(values[this.names[i]] ?? undefined);
    if (this.listed) flat.push(...((values[this.names[this.single]] ?? []) as readonly T[]));
    return flat;
  }

  /** The reverse of `flat`; what is absent has no property. Its type knows no names, and so no lists. */
  named<T>(flat: readonly (T | undefined)[]): Named<string, T> {
    const named: Record<string, unknown> = {};
    for (let i = 0; i < this.single; i++) {
      const value = flat[i];
      if (value !== undefined) named[this.names[i]] = value;
    }
    if (this.listed) named[this.names[this.single]] = flat.slice(this.single);
    return named as Named<string, T>;
  }

  /** The first operand that must be there and is not. */
  missing(flat: readonly unknown[]): string | undefined {
    return this.names.find((name, i) => flat[i] === undefined && !this.optional.has(name));
  }

  /** The name that the i-th of `flat` stands under. */
  nameOf(i: number): string {
    return this.names[Math.min(i, this.names.length - 1)];
  }

  /** The same for messages, where it tells the items of a list apart. */
  label(i: number): string {
    return i < this.single ? this.names[i] : `${this.names[this.single]}[${i - this.single}]`;
  }
}
