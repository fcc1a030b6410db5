import { MatvlmError, SystemError } from '../errors.ts';

/** What the operating system's codes mean to a user, and what to do. */
const ADVICE: Record<string, string> = {
  ENOENT: 'there is no such file or folder: check the path',
  ENOSPC: 'the disk is full: free some space or choose another folder',
  EDQUOT: 'the disk quota is used up: free some space or choose another folder',
  EIO: 'the disk reports a hardware or network error: check it, and choose another one',
  EROFS: 'the file system is read-only: choose another folder',
  EACCES: 'permission denied: choose another folder or change its owner or mode',
  EPERM: 'the operation is not permitted: choose another folder or change its owner or mode',
  EMFILE: 'too many open files: close some, or raise the limit (ulimit -n)',
  ENFILE: 'the system has too many open files: close some programs',
  ENOTDIR: 'a part of the path is a file, expected a folder',
  EISDIR: 'it is a folder, expected a file',
  EEXIST: 'it exists already: choose another name',
  ENAMETOOLONG: 'the name is too long: choose a shorter one',
  EXDEV: 'the paths lie on different file systems: choose a folder on one of them',
};

/** The code of a Node error, such as `ENOSPC`. */
export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** A file system's error as a SystemError that names path, action and cause; errors of ours pass unchanged. */
export function systemError(action: string, path: string, error: unknown): Error {
  if (error instanceof MatvlmError) return error;
  const code = codeOf(error);
  // ERR_… are Node's complaints about a call, a fault of ours.
  if (!code || code.startsWith('ERR_')) return error instanceof Error ? error : new Error(String(error));
  const advice = ADVICE[code] ?? 'the operating system refused';
  return new SystemError(`cannot ${action} ${path}: ${advice} (${code})`, { cause: error });
}
