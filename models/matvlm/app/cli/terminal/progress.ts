import pc from 'picocolors';
import { printableLine } from '../../printable.ts';
import { duration } from './output.ts';
import { NEWLINE, Styled, write } from './terminal.ts';

/** Without a terminal a plain line is written this often, in milliseconds. */
const PLAIN_EVERY = 10_000;
/** A terminal's line is redrawn at most this often, in milliseconds. */
const DRAW_EVERY = 100;
const WIDTH = 24;

/** A progress line on stderr: redrawn in place on a terminal, a plain line now and then elsewhere. */
export class Progress {
  private readonly started = performance.now();
  private drawn = -Infinity;
  private shown = false;

  /**
   * @param first where a resumed run begins
   * @param silent nothing at all is written
   */
  constructor(
    private readonly label: string,
    private readonly total: number,
    private readonly first = 0,
    private readonly silent = false,
    private readonly stream: NodeJS.WriteStream = process.stderr,
  ) {}

  /** @param details what stands behind the bar, such as `loss 0.123` */
  update(done: number, details = ''): void {
    const now = performance.now();
    const wait = this.stream.isTTY ? DRAW_EVERY : PLAIN_EVERY;
    if (this.silent || (now - this.drawn < wait && done < this.total)) return;
    this.drawn = now;
    const rate = (now - this.started) / 1000 / Math.max(1, done - this.first);
    const eta = done > this.first ? `ETA ${duration(rate * (this.total - done))}` : '';
    const took = done < this.total ? eta : duration((now - this.started) / 1000);
    const numbers = printableLine([`${done}/${this.total}`, details, took].filter(Boolean).join('  '));
    const line = this.stream.isTTY
      ? `\r\x1b[2K${this.drawing(done / this.total, numbers)}`
      : `${this.label} ${numbers}\n`;
    write(this.stream, new Styled(line));
    this.shown = true;
  }

  /** Label, bar and numbers; the bar gives way where the terminal is narrow. */
  private drawing(share: number, numbers: string): string {
    const room = (this.stream.columns || 80) - 1;
    const plain = `${this.label} ${numbers}`;
    return plain.length + WIDTH + 1 <= room ? `${this.label} ${bar(share)} ${numbers}` : plain.slice(0, room);
  }

  /** Ends the line, so that others can follow. */
  end(): void {
    if (this.shown && this.stream.isTTY) write(this.stream, NEWLINE);
    this.shown = false;
  }
}

function bar(share: number): string {
  const full = Math.round(Math.min(1, share) * WIDTH);
  return pc.green('━'.repeat(full)) + pc.dim('━'.repeat(WIDTH - full));
}
