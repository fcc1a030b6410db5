import * as assert from 'uvu/assert';

export type Kind = abstract new (...args: never[]) => Error;

/** An error of the kind that says this, in some lines at most, however much it quotes of a hostile input. */
function judge(error: unknown, kind: Kind, says: RegExp | string, what: string): Error {
  assert.instance(error, kind, `${what}: ${error}`);
  const { message } = error as Error;
  assert.match(message, says, what);
  assert.ok(message.length < 1000, `${what}: a message of ${message.length} characters`);
  return error as Error;
}

/** The error that `work` must throw: of the kind, with a message that matches. `what` tells which row of a table. */
export function throws(work: () => unknown, kind: Kind, says: RegExp | string = '', what = String(says)): Error {
  let result: unknown;
  try {
    result = work();
  } catch (error) {
    return judge(error, kind, says, what);
  }
  return assert.unreachable(`${what}: no error, but ${String(result).slice(0, 200)}`) as never;
}

/** The error in which `work` must end, as `throws` has it. */
export function rejects(
  work: Promise<unknown>,
  kind: Kind,
  says: RegExp | string = '',
  what = String(says),
): Promise<Error> {
  return work.then(
    (result) => assert.unreachable(`${what}: no error, but ${String(result).slice(0, 200)}`) as never,
    (error: unknown) => judge(error, kind, says, what),
  );
}
