import { ArgumentError, MatvlmError } from '../../../../../engine/errors.ts';

/** A command line or settings file that cannot be meant so; the process ends with exit code 2. */
export class UsageError extends ArgumentError {}

/** Exit codes of every command. */
export const EXIT = { ok: 0, error: 1, usage: 2, interrupted: 130 } as const;

/** The exit code that an error stands for. */
export function exitCode(error: unknown): number {
  return error instanceof UsageError ? EXIT.usage : EXIT.error;
}

/** What the user is told of an error: one line, with the stack below it where asked for. */
export function describeError(error: unknown, debug: boolean): string {
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  if (debug) return oneLine(stack);
  if (error instanceof MatvlmError) return oneLine(error.message);
  const message = error instanceof Error ? error.message : String(error);
  return `${oneLine(message)} (this is a fault of matvlm: run again with --debug for the details)`;
}

/** A message without line breaks. */
export function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, ' ').trim();
}
