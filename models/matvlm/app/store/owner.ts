import { createHash } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { codeOf } from '../../../../engine/node/system.ts';

/**
 * A process, told from any other that may see the same files: one with the same number later on, in another container
 * or on another machine. Texts are empty where the system does not tell.
 */
export interface Owner {
  readonly pid: number;
  /** When it began, in the kernel's ticks. */
  readonly start: string;
  /** Within which process numbers and times mean the same: a digest of its namespaces. */
  readonly space: string;
  /** The run of its kernel, between two boots; a digest. */
  readonly boot: string;
  /** The machine, where it is certain that no other one has this name; a digest. */
  readonly machine: string;
}

/** The first process namespace of every Linux kernel: what is in no container. */
const FIRST_NAMESPACE = 'pid:[4026531836]';

let own: Owner | undefined;

/** This process. */
export function self(): Owner {
  return (own ??= {
    pid: process.pid,
    start: isOwnProc() ? (readStat(process.pid)?.start ?? '') : '',
    space: digest(link('ns/pid'), link('ns/time')),
    boot: digest(text('/proc/sys/kernel/random/boot_id') || hostname()),
    machine: machine(),
  });
}

/** As a part of a file name, from which `parseOwner` reads it again. */
export function ownerName({ pid, start, space, boot, machine }: Owner): string {
  return [pid, start, space, boot, machine].join('-');
}

/** null for what is no owner's name. */
export function parseOwner(name: string): Owner | null {
  const [, pid, start, space, boot, machine] = /^(\d{1,15})-(\d*)-(\w*)-(\w*)-(\w*)$/.exec(name) ?? [];
  return pid === undefined ? null : { pid: Number(pid), start, space, boot, machine };
}

/**
 * Whether a process lives. `unknown` where it cannot be judged from here: it belongs to another container, or to
 * another machine that shares the files.
 */
export function stateOf(owner: Owner): 'alive' | 'dead' | 'unknown' {
  const me = self();
  if (owner.boot !== me.boot) return owner.machine && owner.machine === me.machine ? 'dead' : 'unknown';
  if (owner.space !== me.space) return 'unknown';
  if (!exists(owner.pid)) return 'dead';
  const stat = me.start === '' || owner.start === '' ? null : readStat(owner.pid);
  return stat && (stat.start !== owner.start || stat.ended) ? 'dead' : 'alive';
}

function exists(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return codeOf(error) !== 'ESRCH';
  }
}

/** Whether /proc shows the processes of our own namespace: a container may have been given that of the machine. */
function isOwnProc(): boolean {
  return link('') === String(process.pid);
}

/** When a process began, and whether nothing is left of it but its number, which its parent has not asked about. */
function readStat(pid: number): { start: string; ended: boolean } | null {
  // The second field is the program's name in parentheses, which may hold anything.
  const fields = text(`/proc/${pid}/stat`).replace(/^.*\)/s, '').trim().split(' ');
  return fields.length > 19 ? { start: fields[19], ended: 'ZX'.includes(fields[0]) } : null;
}

/** Two machines, or two containers of one image, can have one name; a machine's id is its own. */
function machine(): string {
  const id = text('/etc/machine-id');
  return id && link('ns/pid') === FIRST_NAMESPACE ? digest(hostname(), id) : '';
}

function digest(...texts: readonly string[]): string {
  return texts.join('') === '' ? '' : createHash('sha256').update(texts.join('\n')).digest('hex').slice(0, 10);
}

function link(name: string): string {
  try {
    return readlinkSync(`/proc/self/${name}`.replace(/\/$/, ''));
  } catch {
    return '';
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}
