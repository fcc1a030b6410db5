import { closeSync, fstatSync, openSync } from 'node:fs';
import { devNull } from 'node:os';
import { isatty } from 'node:tty';
import { codeOf, systemError } from '../../../../../engine/node/system.ts';
import { printableLine } from '../../printable.ts';

/** Text that may be written as it is: line breaks and colours of ours, and what went through `printable`. */
export class Styled {
  constructor(readonly text: string) {}
}

/** What was first to go wrong with a stream: nothing more is written to it then. */
const lost = new Map<NodeJS.WriteStream, unknown>();

for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error) => lost.has(stream) || lost.set(stream, error));
}

/**
 * The one place where output is written. A text is one line, or a part of one, of unknown origin: what a terminal would
 * obey is replaced by its code. Output that is lost, to a pipe or a terminal that closed or to a full disk, never ends
 * the work that it tells of.
 */
export function write(stream: NodeJS.WriteStream, text: string | Styled): void {
  if (lost.has(stream)) return;
  try {
    stream.write(text instanceof Styled ? text.text : printableLine(text));
  } catch (error) {
    // Files are written at once, and throw.
    lost.set(stream, error);
  }
}

/** Ends a line. */
export const NEWLINE = new Styled('\n');

/** Waits until all that was written has reached its reader, or is lost. A full disk does not take even nothing. */
export async function flush(): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) {
    if (stream.writableLength > 0 && !lost.has(stream)) await new Promise((done) => stream.write('', done));
  }
}

/** Why results on stdout were lost; null when they were not, or when their reader has seen enough, as `head` does. */
export function lostResults(): Error | null {
  const error = lost.get(process.stdout);
  const isGone = codeOf(error) === 'EPIPE' || (process.stdout.isTTY && codeOf(error) === 'EIO');
  if (error === undefined || isGone) return null;
  return systemError('write', 'the results to standard output', error);
}

/**
 * Ends the process. Not left to the event loop: after an error it may still run on what a GPU driver has freed. Node 20
 * sets the terminal's modes back here, and aborts where that is gone: a terminal that hung up gives way to nothing.
 */
export function quit(code: number): never {
  for (const fd of process.platform === 'win32' ? [] : [0, 1, 2]) {
    if (!fstatSync(fd).isCharacterDevice() || isatty(fd)) continue;
    closeSync(fd);
    // Takes the lowest number that is free, which is this one.
    openSync(devNull, 'r+');
  }
  process.exit(code);
}
