import { open, readFile, type FileHandle } from 'node:fs/promises';
import { systemError } from '../../../../engine/node/index.ts';
import { writeFileAtomic } from '../store/index.ts';

/** Settings that a resumed run was given in place of its own, by the names of their flags. */
export type Overrides = Readonly<Record<string, { readonly from: unknown; readonly to: unknown }>>;

/**
 * One line of metrics.jsonl; names as in conventions of trackers, `train/loss` and the like. A line with `override`
 * tells of settings that hold for the steps after its own.
 */
export type MetricLine = { readonly step: number; readonly override?: Overrides } & Readonly<Record<string, unknown>>;

/**
 * `metrics.jsonl` of a run: a JSON object a line, in order. Numbers that JSON cannot hold are written as the strings
 * "NaN", "Infinity" and "-Infinity".
 */
export class MetricsLog {
  private constructor(
    private readonly path: string,
    private readonly handle: FileHandle,
  ) {}

  /**
   * Opens the log for appending; lines beyond `step` are dropped first, so that a resumed run's log is that of an
   * uninterrupted one.
   */
  static async open(path: string, step = 0): Promise<MetricsLog> {
    const kept = (await readMetrics(path)).filter((line) => line.step <= step);
    await writeFileAtomic(path, kept.map(toLine).join(''));
    try {
      return new MetricsLog(path, await open(path, 'a'));
    } catch (error) {
      throw systemError('write', path, error);
    }
  }

  async add(line: MetricLine): Promise<void> {
    try {
      await this.handle.write(toLine(line));
    } catch (error) {
      throw systemError('write', this.path, error);
    }
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

/**
 * Logs what a run that goes on from `step` overrides. Earlier records of that step are dropped: no step was made with
 * them.
 */
export async function logOverrides(path: string, step: number, override: Overrides): Promise<void> {
  const kept = (await readMetrics(path)).filter((line) => line.step < step || (line.step === step && !line.override));
  const added = Object.keys(override).length > 0 ? [{ step, override }] : [];
  await writeFileAtomic(path, [...kept, ...added].map(toLine).join(''));
}

/** The lines of a log; one that was cut off by a crash is left out. An absent file has none. */
export async function readMetrics(path: string): Promise<MetricLine[]> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw systemError('read', path, error);
  }
  return text.split('\n').flatMap((line) => {
    try {
      const parsed: unknown = JSON.parse(line);
      return typeof parsed === 'object' && parsed !== null && 'step' in parsed ? [parsed as MetricLine] : [];
    } catch {
      return [];
    }
  });
}

function toLine(line: MetricLine): string {
  const plain = (_: string, value: unknown) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value;
  return `${JSON.stringify(line, plain)}\n`;
}
