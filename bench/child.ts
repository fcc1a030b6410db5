import { spawn } from 'node:child_process';
import { SystemError } from '../engine/errors.ts';

/** What a process took from its start to its end. */
export interface ChildCost {
  readonly milliseconds: number;
  /** Bytes resident at most. */
  readonly peak: number;
}

/** Has the child tell its peak on a fourth stream when it exits. */
const TELL = `import{writeSync}from'node:fs';process.on('exit',()=>writeSync(3,String(process.resourceUsage().maxRSS)))`;

/** Runs Node with these arguments. @throws SystemError with what the child said when it fails */
export function measureChild(args: readonly string[]): Promise<ChildCost> {
  const start = performance.now();
  const preload = `data:text/javascript,${encodeURIComponent(TELL)}`;
  const child = spawn(process.execPath, ['--import', preload, ...args], { stdio: ['ignore', 'ignore', 'pipe', 'pipe'] });
  let [said, told] = ['', ''];
  child.stdio[2]!.on('data', (chunk) => (said += chunk));
  child.stdio[3]!.on('data', (chunk) => (told += chunk));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve({ milliseconds: performance.now() - start, peak: 1024 * Number(told) });
      else reject(new SystemError(`${args.join(' ')} ended with ${code}: ${said.trim()}`));
    });
  });
}
