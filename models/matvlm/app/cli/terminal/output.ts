import pc from 'picocolors';
import { printable, printableLine } from '../../printable.ts';
import { dashed } from '../options/options.ts';
import { NEWLINE, Styled, write } from './terminal.ts';

/** Results go to stdout; what is said along the way goes to stderr, so that output can be piped. */
export function print(line: string | Styled = ''): void {
  write(process.stdout, line);
  write(process.stdout, NEWLINE);
}

/** A piece of a text that may have line breaks, on stdout. */
export function printPiece(text: string): void {
  write(process.stdout, new Styled(printable(text)));
}

/** A line for people, on stderr. */
export function say(line = ''): void {
  sayAfter('', line);
}

let verbose = false;

/** Has what is said with `detail` said too. */
export function tellDetails(): void {
  verbose = true;
}

/** A line that is said only with `--verbose`: the run's folder tells it too. */
export function detail(line: string): void {
  if (verbose) say(line);
}

export function warn(message: string): void {
  sayAfter(`${pc.yellow('warning:')} `, message);
}

export function sayError(message: string): void {
  sayAfter(`${pc.red('error:')} `, message);
}

/** @param mark what stands before the line, with colours of ours */
function sayAfter(mark: string, line: string): void {
  write(process.stderr, new Styled(`${mark}${printableLine(line)}\n`));
}

export function printJson(value: unknown): void {
  print(new Styled(printable(JSON.stringify(value, null, 2))));
}

/** Rows as aligned columns; numbers to the right. The first row is the heading. */
export function table(rows: readonly (readonly (string | number)[])[]): Styled {
  const cells = rows.map((row) => row.map((cell) => printableLine(String(cell))));
  const widths = cells[0].map((_, c) => Math.max(...cells.map((row) => (row[c] ?? '').length)));
  const numeric = cells[0].map(
    (_, c) => cells.length > 1 && cells.slice(1).every((row) => /^[-–\d.,]/.test(row[c] ?? '')),
  );
  const lines = cells.map((row, r) => {
    const line = row.map((cell, c) => (numeric[c] ? cell.padStart(widths[c]) : cell.padEnd(widths[c]))).join('  ');
    return r === 0 ? pc.bold(line.trimEnd()) : line.trimEnd();
  });
  return new Styled(lines.join('\n'));
}

/** The resolved settings, a line each. @param to where each line goes */
export function saySettings(settings: Readonly<Record<string, unknown>>, to: (line: string) => void = say): void {
  const width = Math.max(...Object.keys(settings).map((key) => dashed(key).length));
  for (const [key, value] of Object.entries(settings)) {
    to(`  ${dashed(key).padEnd(width)}  ${value === null ? '–' : String(value)}`);
  }
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

/** Bytes for people: 12.3 MB. */
export function bytes(n: number): string {
  let unit = 0;
  let value = n;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(3)} ${UNITS[unit]}`;
}

/** 1234567 → 1,234,567. */
export function thousands(n: number): string {
  return n.toLocaleString('en-US');
}

/** 0.9312 → 93.1 %. */
export function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

/** Seconds for people: 1:05, 2:03:04. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n: number) => String(n).padStart(2, '0');
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
