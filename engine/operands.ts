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
  /** Those that may be absent; a list may be empty. */
  private readonly optional: ReadonlySet<string>;

  constructor(declared: readonly string[]) {
    this.names = declared.map((name) => name.replace(/[?*]$/, ''));
    this.listed = declared.at(-1)?.endsWith('*') ?? false;
    this.optional = new Set(this.names.filter((name, i) => name !== declared[i]));
  }

  /** What stands under the names, in their order, the list's items last; undefined where one is absent. */
  flat<T>(named: object): (T | undefined)[] {
    const values = named as Readonly<Record<string, T | undefined>>;
    const flat: (T | undefined)[] = [];
    const single = this.listed ? this.names.length - 1 : this.names.length;
    for (let i = 0; i < single; i++) flat.push(values[this.names[i]]);
    if (this.listed) flat.push(...((values[this.names[single]] ?? []) as readonly T[]));
    return flat;
  }

  /** The reverse of `flat`; what is absent has no property. */
  named<T>(flat: readonly (T | undefined)[]): Record<string, T | T[]> {
    const named: Record<string, T | T[]> = {};
    const single = this.listed ? this.names.length - 1 : this.names.length;
    for (let i = 0; i < single; i++) {
      const value = flat[i];
      if (value !== undefined) named[this.names[i]] = value;
    }
    if (this.listed) named[this.names[single]] = flat.slice(single) as T[];
    return named;
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
    const last = this.names.length - 1;
    return this.listed && i >= last ? `${this.names[last]}[${i - last}]` : this.names[i];
  }
}
