import { readFile, writeFile } from 'node:fs/promises';
import { DataError } from '../models/nn/errors.ts';
import type { OpProfile } from '../engine/profiler.ts';
import type { Machine } from './machine.ts';
import type { Timing } from './measure.ts';

export type RateUnit = 'GFLOP/s' | 'GB/s' | 'steps/s' | 'tokens/s' | 'prompts/s';

/** One line of the table. */
export interface Result extends Timing {
  readonly case: string;
  /** wasm, webgpu, webgpu (software), reference */
  readonly backend: string;
  /** Milliseconds a call takes on the GPU by its own clock; null where there is none. */
  readonly device: number | null;
  readonly unit: RateUnit;
  /** Work over `device` where known, else over the median. */
  readonly rate: number;
  /** Share of the rate that the device's maker states. */
  readonly share: number | null;
}

/** What the profiler saw of one step. */
export interface StepProfile {
  readonly step: string;
  readonly backend: string;
  /** Milliseconds from start to end, profiling included. */
  readonly wall: number;
  readonly ops: readonly OpProfile[];
}

/** What `--json` writes. */
export interface Report {
  readonly format: 'matvlm-bench-1';
  readonly machine: Machine;
  readonly quick: boolean;
  /** Adapter or engine behind each name of the backend column. */
  readonly backends: Readonly<Record<string, string>>;
  readonly results: readonly Result[];
  readonly profiles: readonly StepProfile[];
}

export async function writeReport(file: string, report: Report): Promise<void> {
  await writeFile(file, `${JSON.stringify(report, null, 2)}\n`);
}

/** @throws DataError when the file is not what `--json` writes */
export async function readReport(file: string): Promise<Report> {
  let report: Partial<Report>;
  try {
    report = JSON.parse(await readFile(file, 'utf8')) as Partial<Report>;
  } catch (error) {
    throw new DataError(`--compare ${file}: ${(error as Error).message}; give a file that --json wrote`);
  }
  if (report?.format !== 'matvlm-bench-1' || !Array.isArray(report.results)) {
    throw new DataError(`--compare ${file}: its format is ${report?.format}, expected matvlm-bench-1, as --json writes it`);
  }
  return report as Report;
}

const HEADING = ['case', 'backend', 'median', 'p75', 'p99', 'spread', 'on GPU', 'rate', 'of limit'];

/** The results as one aligned table; with `before`, how many times as fast each has become. */
export function resultTable(results: readonly Result[], before: Report | null): string {
  const earlier = new Map(before?.results.map((r) => [`${r.backend} ${r.case}`, r]));
  const rows = results.map((r) => {
    const then = earlier.get(`${r.backend} ${r.case}`);
    const cells = [
      r.case,
      r.backend,
      duration(r.median),
      duration(r.p75),
      duration(r.p99),
      `±${(100 * r.spread).toFixed(0)}%`,
      r.device === null ? '–' : duration(r.device),
      `${significant(r.rate)} ${r.unit.padEnd(9)}`,
      r.share === null ? '–' : `${(100 * r.share).toFixed(1)}%`,
    ];
    return before ? [...cells, then ? `${(then.median / r.median).toFixed(2)}×` : 'new'] : cells;
  });
  return align([before ? [...HEADING, 'faster'] : HEADING, ...rows], 2);
}

/** Columns to width; the first `left` to the left, the others to the right. */
export function align(rows: readonly (readonly string[])[], left: number): string {
  const widths = rows[0].map((_, c) => Math.max(...rows.map((row) => row[c].length)));
  const cell = (text: string, c: number) => (c < left ? text.padEnd(widths[c]) : text.padStart(widths[c]));
  return rows.map((row) => row.map(cell).join('  ').trimEnd()).join('\n');
}

/** Milliseconds for people, in the unit that suits them. */
export function duration(ms: number): string {
  if (ms >= 1000) return `${significant(ms / 1000)} s `;
  return ms >= 1 ? `${significant(ms)} ms` : `${significant(ms * 1000)} µs`;
}

function significant(x: number): string {
  return x >= 1000 ? x.toFixed(0) : x.toPrecision(3);
}
