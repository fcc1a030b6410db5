import { ArgumentError } from './errors.ts';

/** Largest whole number that every backend's kernels take as a size, a stride or an index. */
const MOST = 2 ** 31 - 1;

/** A value as messages show it: strings in quotes, so that '1' is not taken for 1. */
export function shown(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

function range(least: number, most: number): string {
  if (least === -Infinity) return '';
  return most === MOST || most === Infinity ? ` of at least ${least}` : ` from ${least} to ${most}`;
}

/** @throws ArgumentError unless `value` is a whole number from `least` to `most`; a string is none */
export function expectWhole(op: string, name: string, value: unknown, least = 0, most = MOST): void {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return;
  throw new ArgumentError(`${op}: ${name} is ${shown(value)}, expected a whole number${range(least, most)}`);
}

/** @throws ArgumentError unless `value` is a number from `least` to `most`; NaN, infinities and strings are none */
export function expectFinite(op: string, name: string, value: unknown, least = -Infinity, most = Infinity): void {
  if (Number.isFinite(value) && (value as number) >= least && (value as number) <= most) return;
  throw new ArgumentError(`${op}: ${name} is ${shown(value)}, expected a finite number${range(least, most)}`);
}

/** @throws ArgumentError unless `value` is a number; NaN and infinities are */
export function expectNumber(op: string, name: string, value: unknown): void {
  if (typeof value !== 'number') throw new ArgumentError(`${op}: ${name} is ${shown(value)}, expected a number`);
}

/** @throws ArgumentError unless `value` is one of `allowed` */
export function expectOneOf(op: string, name: string, value: unknown, ...allowed: unknown[]): void {
  if (allowed.includes(value)) return;
  throw new ArgumentError(`${op}: ${name} is ${shown(value)}, expected ${allowed.map(shown).join(' or ')}`);
}
