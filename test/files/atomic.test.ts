import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SystemError } from '../../engine/errors.ts';
import * as io from '../../engine/node/index.ts';
import { Checkpoint } from '../../engine/safetensors/index.ts';
import { latestCheckpoint, listCheckpoints, pruneCheckpoints, verifyCheckpoint } from '../../models/matvlm/app/store/checkpoints.ts';
import { makeFolders } from '../../models/matvlm/app/store/files.ts';
import * as store from '../../models/matvlm/app/store/index.ts';
import { acquireLock, type Lock } from '../../models/matvlm/app/store/lock.ts';
import { type Owner, ownerName, self, stateOf } from '../../models/matvlm/app/store/owner.ts';
import { rejects } from '../support/expect.ts';
import { type FaultyFiles, faultyFiles } from '../support/faulty-files.ts';
import { freshFolder, freshPath } from '../support/folders.ts';

/** Processes that live, or that cannot be judged from here. */
const OTHERS: Record<string, Owner> = {
  parent: { ...self(), pid: process.ppid, start: startOf(process.ppid) },
  'of another namespace': { ...self(), pid: 7, space: 'other' },
  'of another machine': { ...self(), boot: 'other', machine: 'other' },
  'of a container that does not know its machine': { ...self(), boot: 'other', machine: '' },
};
/** Processes that have ended. */
const DEAD: Record<string, Owner> = {
  gone: { ...self(), pid: 999_999_999 },
  ...(self().start && { 'with our number, before us': { ...self(), start: '1' } }),
  ...(self().start && { 'whose number is another one now': { ...self(), pid: process.ppid, start: '1' } }),
  ...(self().machine && { 'of an earlier boot': { ...self(), boot: 'other' } }),
};

/** When a process began, as the system tells. */
function startOf(pid: number): string {
  const path = `/proc/${pid}/stat`;
  return self().start && existsSync(path) ? readFileSync(path, 'utf8').split(') ')[1].split(' ')[19] : '';
}

const CODES = ['ENOSPC', 'EIO', 'EROFS', 'EACCES', 'EMFILE'];
const file = fileURLToPath(import.meta.url);

/** A checkpoint whose every part tells its version: 3 pages of weights in two shards, and a state. */
async function fill(folder: string, version: number, files: store.FileSystem): Promise<void> {
  const data = () => new Int32Array(1024).fill(version);
  const tensors = ['a', 'b', 'c'].map((name) => ({ name, dtype: 'I32' as const, shape: [1024], data }));
  await store.writeShardedSafetensors(folder, tensors, { files, maxShardSize: 9000 });
  await store.writeFileAtomic(join(folder, 'trainer_state.json'), JSON.stringify({ version }), files);
}

/** Writes a checkpoint of that version as a whole. */
function write(path: string, version: number, files: store.FileSystem = faultyFiles()): Promise<void> {
  return store.writeFolderAtomic(path, (folder, within) => fill(folder, version, within), files);
}

/** The version of a checkpoint, which must be whole: all parts of one version and nothing else. */
async function versionOf(folder: string): Promise<number> {
  await verifyCheckpoint(folder);
  const { version } = JSON.parse(readFileSync(join(folder, 'trainer_state.json'), 'utf8')) as { version: number };
  const weights = await Checkpoint.open(io.diskFolder(folder));
  for (const name of ['a', 'b', 'c']) {
    assert.equal(new Set(await weights.readAs(name, 'i32')), new Set([version]), `${folder}: ${name}`);
  }
  await weights.close();
  assert.is(readdirSync(folder).length, 5, `${folder} holds ${readdirSync(folder)}`);
  return version;
}

const newest = async (run: string) => versionOf((await latestCheckpoint(run))!.path);

/** What every writer of a run begins with: takes the lock, and with it cleans up. */
async function resume(run: string): Promise<void> {
  await (await acquireLock(run)).release();
}

/** The error of `work`, which must name the path and the code; null where there is none. */
async function systemError(work: Promise<unknown>, code: string, path: string): Promise<Error | null> {
  const failed = await work.then(() => false, () => true);
  if (!failed) return null;
  const error = await rejects(work, SystemError, code);
  assert.ok(error.message.includes(path), `${error.message} names ${path}`);
  return error;
}

/** Runs `body` with a fault at the first call, at the second, and so on until it ends before. Returns how often. */
async function everyFault(fault: (at: number) => string, lasting: boolean, body: (files: FaultyFiles, at: number) => Promise<void>) {
  for (let at = 1; ; at++) {
    const files = faultyFiles({ at, code: fault(at), lasting });
    await body(files, at);
    if (files.calls < at) return at;
  }
}
const killed = (body: (files: FaultyFiles, at: number) => Promise<void>) => everyFault(() => 'killed', true, body);

const atomic = suite('atomic writes: a fault at every call');

atomic('a file: the former or the new one, and no temporary file', async () => {
  const [former, next] = ['old '.repeat(2000), 'new '.repeat(5000)];
  let failed = 0;
  for (const code of CODES) {
    await everyFault(() => code, false, async (files, at) => {
      const folder = freshFolder([['state.json', former]]);
      const path = join(folder, 'state.json');
      const error = await systemError(store.writeFileAtomic(path, next, files), code, path);
      const found = readFileSync(path, 'utf8');
      assert.equal(readdirSync(folder), ['state.json'], `${code} at ${at}`);
      assert.ok(found === next || (error && found === former), `${code} at ${at}: ${found.length} bytes`);
      failed += error ? 1 : 0;
    });
  }
  assert.ok(failed >= 5 * 10, `${failed} faults came through`);
});

for (const replacing of [false, true]) {
  const kind = replacing ? 'replacing one' : 'new';

  /** A run with checkpoint 1, and checkpoint 2 when it is to be replaced; the version that must be found so far. */
  const prepare = async () => {
    const run = await runOf(...(replacing ? [1, 2] : [1]));
    return { run, path: join(run, 'checkpoint-2'), former: replacing ? 2 : 1 };
  };

  atomic(`a folder, ${kind}: the former or the new one, nothing left`, async () => {
    let { run, path, former } = await prepare();
    let failed = 0;
    const code = (at: number) => CODES[at % CODES.length];
    await everyFault(code, false, async (files, at) => {
      const what = `${code(at)} at ${at}`;
      const next = 10 + at;
      const error = await systemError(write(path, next, files), code(at), run);
      // A fault while the replaced one is deleted is no error: the new one is in place, the rest is swept later.
      const passing = readdirSync(run).filter((name) => !name.startsWith('checkpoint-'));
      assert.equal(passing.filter((name) => error || !/\.old-/.test(name)), [], what);
      await resume(run);
      const found = await newest(run);
      assert.ok(found === next || (error && found === former), `${what}: version ${found}`);
      assert.ok(readdirSync(run).every((name) => name.startsWith('checkpoint-')), `${what}: not swept`);
      failed += error ? 1 : 0;
      if (replacing) former = found;
      else rmSync(path, { recursive: true, force: true });
    });
    assert.ok(failed >= 40, `${failed} faults came through`);
  });

  atomic(`a folder, ${kind}: killed at every call and every 4 KiB`, async () => {
    let { run, path, former } = await prepare();
    const seen = new Set<boolean>();
    await killed(async (files, at) => {
      await write(path, 1000 + at, files).catch(() => {});
      await files.closeAll();
      await resume(run);
      const found = await newest(run);
      assert.ok(found === 1000 + at || found === former, `killed at ${at}: version ${found}`);
      seen.add(found === former);
      await write(path, 10 + at);
      assert.equal(readdirSync(run).sort(), ['checkpoint-1', 'checkpoint-2'], `killed at ${at}`);
      assert.is(await versionOf(path), 10 + at);
      if (replacing) former = 10 + at;
      else rmSync(path, { recursive: true });
    });
    assert.is(seen.size, 2, 'kills before and after the change were seen');
  });
}

atomic('an error of the caller passes unchanged and leaves nothing', async () => {
  const run = freshPath();
  const mine = new Error('mine');
  const fails = () => Promise.reject(mine);
  assert.is(await rejects(store.writeFolderAtomic(join(run, 'x'), fails), Error), mine);
  assert.is(await rejects(store.writeAtomic(join(run, 'y'), fails), Error), mine);
  assert.equal(readdirSync(run), []);
});

atomic('nothing half-written is taken for complete', async () => {
  const path = join(freshPath(), 'x');
  await store.writeFolderAtomic(path, async (folder, files) => {
    await fill(folder, 1, files);
    assert.not(await store.isCompleteFolder(folder));
  });
  assert.ok(await store.isCompleteFolder(path));
  unlinkSync(join(path, 'trainer_state.json'));
  assert.not(await store.isCompleteFolder(path));
  assert.not(await store.isCompleteFolder(join(path, 'nowhere')));
});

atomic('folders are made one by one, so that a read-only file system is told as such', async () => {
  const path = join(freshPath(), 'a', 'b');
  const refuse = (code: string) => Promise.reject(Object.assign(new Error(code), { code }));
  // What Node's mkdir does: the system's own code for one folder, another one for a `recursive` call.
  const readOnly = (_: string, options?: { recursive?: boolean }) => refuse(options?.recursive ? 'ENOENT' : 'EROFS');
  await rejects(makeFolders(path, readOnly), Error, /^EROFS$/);
  await makeFolders(path);
  await makeFolders(path, readOnly);
  assert.equal(readdirSync(join(path, '..')), ['b']);
});

const runs = suite('checkpoints of a run');

async function runOf(...steps: number[]): Promise<string> {
  const run = freshPath();
  for (const step of steps) await write(join(run, `checkpoint-${step}`), step);
  return run;
}

const DAMAGE: Record<string, (folder: string) => void> = {
  'no _SUCCESS': (folder) => unlinkSync(join(folder, '_SUCCESS')),
  'a shard cut off': (folder) => truncateSync(join(folder, 'model-00001-of-00002.safetensors'), 5000),
  'a shard too long': (folder) => appendFileSync(join(folder, 'model-00002-of-00002.safetensors'), 'x'),
  'a shard missing': (folder) => unlinkSync(join(folder, 'model-00002-of-00002.safetensors')),
  'a state cut off': (folder) => truncateSync(join(folder, 'trainer_state.json'), 3),
  'an empty index': (folder) => truncateSync(join(folder, 'model.safetensors.index.json'), 0),
};

/** Collects warnings. */
function listening() {
  const warnings: string[] = [];
  return { warnings, warn: (line: string) => void warnings.push(line) };
}

runs('looking again where the newest is deleted meanwhile', async () => {
  const run = await runOf(1, 2);
  let looks = 0;
  const files: store.FileSystem = {
    ...store.disk,
    // Each of the first looks comes too late: a newer one is written, and what was the newest deleted.
    list: async (path) => {
      const names = await store.disk.list(path);
      if (path !== run || ++looks > 3) return names;
      await write(join(run, `checkpoint-${looks + 2}`), looks + 2);
      await pruneCheckpoints(run, 1);
      return names;
    },
  };
  const { warnings, warn } = listening();
  assert.is((await latestCheckpoint(run, { files, warn }))?.step, 5);
  assert.equal(warnings, []);
});

runs('a reader changes nothing, whoever left what', async () => {
  const run = await runOf(1, 2);
  for (const owner of [self(), ...Object.values(OTHERS)]) {
    for (const kind of ['tmp', 'old', 'trash']) mkdirSync(join(run, `.checkpoint-3.${kind}-${ownerName(owner)}-1`));
  }
  const before = readdirSync(run);
  assert.is((await latestCheckpoint(run))!.step, 2);
  await listCheckpoints(run);
  await verifyCheckpoint(join(run, 'checkpoint-1'));
  assert.equal(readdirSync(run), before);
});

runs('the newest by number, or null', async () => {
  assert.is((await latestCheckpoint(await runOf(900, 1000, 20)))!.step, 1000);
  assert.is(await latestCheckpoint(await runOf()), null);
});

for (const [kind, damage] of Object.entries(DAMAGE)) {
  runs(`falls back over one with ${kind}, with a warning, and prunes nothing`, async () => {
    const run = await runOf(1, 2, 3);
    damage(join(run, 'checkpoint-3'));
    const { warnings, warn } = listening();
    assert.is((await latestCheckpoint(run, { warn }))!.step, 2);
    assert.match(warnings.join('\n'), /^.*checkpoint-3.*$/);
    assert.equal(await pruneCheckpoints(run, 1, { warn }), []);
    assert.is(readdirSync(run).length, 3);
  });
}

runs('prunes to the newest that are whole, and spares the protected', async () => {
  const run = await runOf(1, 2, 3, 4, 5);
  DAMAGE['a shard cut off'](join(run, 'checkpoint-4'));
  const removed = await pruneCheckpoints(run, 2, { protect: [join(run, 'checkpoint-1')] });
  assert.equal(removed.map(({ step }) => step), [2]);
  assert.equal(readdirSync(run).sort(), ['checkpoint-1', 'checkpoint-3', 'checkpoint-4', 'checkpoint-5']);
});

runs('a checkpoint that cannot be deleted is warned of, and the others go', async () => {
  const run = await runOf(1, 2, 3, 4);
  const stuck = join(run, 'checkpoint-2');
  const refuse = () => Promise.reject(Object.assign(new Error('EBUSY'), { code: 'EBUSY' }));
  const rename = (from: string, to: string) => (from === stuck ? refuse() : store.disk.rename(from, to));
  const { warnings, warn } = listening();
  const removed = await pruneCheckpoints(run, 1, { warn, files: { ...store.disk, rename } });
  assert.equal(removed.map(({ step }) => step), [1, 3]);
  assert.equal(readdirSync(run).sort(), ['checkpoint-2', 'checkpoint-4']);
  assert.match(warnings.join('\n'), new RegExp(`^.*cannot delete ${stuck}.*$`));
});

runs('a fault at every call of pruning leaves the newest whole and none half-deleted', async () => {
  await killed(async (files, at) => {
    const run = await runOf(1, 2);
    await pruneCheckpoints(run, 1, { files }).catch(() => {});
    await files.closeAll();
    assert.is((await latestCheckpoint(run))!.step, 2, `killed at ${at}`);
    for (const { path } of await listCheckpoints(run)) await verifyCheckpoint(path);
    rmSync(run, { recursive: true });
  });
});

const locks = suite('the lock of a run');

/** A run that is locked for another process. */
function lockedFor(owner: Owner): string {
  return freshFolder([[join('run.lock', ownerName(owner)), '']]);
}

locks('refuses a second, in the same process and from another, and names it', async () => {
  const run = freshPath();
  const both = await Promise.allSettled([acquireLock(run), acquireLock(run)]);
  const [one, ...none] = both.filter((lock): lock is PromiseFulfilledResult<Lock> => lock.status === 'fulfilled');
  assert.equal(none, []);
  await one.value.release();
  assert.equal(readdirSync(run), []);
  const child = await start('hold', run);
  await rejects(acquireLock(run), SystemError, `${run}: process ${child.pid} is writing this run`);
  await kill(child);
  const lock = await acquireLock(run);
  assert.equal(readdirSync(lock.path), [ownerName(self())]);
  await lock.release();
  await lock.release();
  assert.equal(readdirSync(run), []);
});

locks('takes over what a dead process left, also where it was killed between two calls', async () => {
  for (const [kind, owner] of Object.entries(DEAD)) {
    const run = lockedFor(owner);
    mkdirSync(join(run, `.run.lock.tmp-${ownerName(owner)}-1`));
    assert.is(stateOf(owner), 'dead', kind);
    await resume(run);
    assert.equal(readdirSync(run), [], kind);
  }
  const run = freshFolder();
  mkdirSync(join(run, 'run.lock'));
  await resume(run);
  assert.equal(readdirSync(run), [], 'killed while it gave the lock back');
});

locks('never from one that lives or cannot be judged from here, and tells how to force it', async () => {
  for (const [kind, owner] of Object.entries(OTHERS)) {
    const run = lockedFor(owner);
    const { message } = await rejects(acquireLock(run), SystemError, `process ${owner.pid}`, kind);
    const unknown = stateOf(owner) === 'unknown';
    assert.match(message, unknown ? `delete ${join(run, 'run.lock')}` : 'wait for it, stop it');
    assert.equal(readdirSync(join(run, 'run.lock')), [ownerName(owner)]);
    assert.equal(readdirSync(run), ['run.lock']);
  }
  const run = freshFolder([['run.lock', 'of another program']]);
  await rejects(acquireLock(run), SystemError, `delete ${join(run, 'run.lock')}`);
});

locks('who has it cleans up in the run, but not what a living process needs', async () => {
  const names = (owners: Record<string, Owner>) => Object.values(owners).map((o) => `.x.tmp-${ownerName(o)}-1`);
  const run = freshFolder([...names(DEAD), ...names(OTHERS)].map((name) => [name, '']));
  await resume(run);
  assert.equal(readdirSync(run), names({ parent: OTHERS.parent }));
  // Without the lock, only what is dead for certain.
  for (const name of names({ ...DEAD, ...OTHERS })) writeFileSync(join(run, name), '');
  await store.writeFileAtomic(join(run, 'x'), 'done');
  assert.equal(readdirSync(run).sort(), [...names(OTHERS), 'x'].sort());
});

locks('of many that want a dead one, one gets it', async () => {
  const run = lockedFor(DEAD.gone);
  const all = await Promise.allSettled(Array.from({ length: 5 }, () => start('hold', run, 'ignore')));
  const got = all.filter((one) => one.status === 'fulfilled');
  assert.is(got.length, 1);
  assert.match(readdirSync(join(run, 'run.lock')).join(), new RegExp(`^${got[0].value.pid}-`));
  await kill(got[0].value);
});

const UNSHARE = ['--pid', '--fork', '--mount-proc'];
const canUnshare = spawnSync('unshare', [...UNSHARE, 'true']).status === 0;
const asChild = (task: string, run: string) => ({ ...process.env, MATVLM_TEST_CHILD: JSON.stringify([task, run]) });

(canUnshare ? locks : locks.skip)('holds in another process namespace, where readers disturb no writer', async () => {
  const run = freshPath();
  const child = await start('train', run);
  const within = async (task: string) => {
    const env = asChild(task, run);
    const ended = spawn('unshare', [...UNSHARE, process.execPath, file], { env, stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    ended.stderr.on('data', (text) => (stderr += text));
    return new Promise<string>((done) => ended.on('close', () => done(stderr)));
  };
  try {
    assert.is(await within('read'), '');
    assert.match(await within('hold'), `process ${child.pid} of another container or machine`);
    assert.is(child.exitCode, null, 'the writer goes on');
  } finally {
    await kill(child);
  }
});

locks('a fault at every call is told, and does not lock the run for ever', async () => {
  await everyFault(() => 'ENOSPC', false, async (files) => {
    const run = freshPath();
    const acquired = acquireLock(run, files);
    if (!(await systemError(acquired, 'ENOSPC', run))) await systemError((await acquired).release(), 'ENOSPC', run);
    await resume(run);
  });
});

const kills = suite('a process killed while it writes checkpoints');
const ROUNDS = 8;

kills(`by SIGKILL, ${ROUNDS} times: each time the run goes on from a whole checkpoint`, async () => {
  const run = freshPath();
  let last = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const child = await start('train', run);
    let output = '';
    // Each round gets on by a step, however slow the machine is, and dies somewhere in the next ones.
    await new Promise<void>((done) => {
      child.stdout!.on('data', (text) => (output += text).includes('\n') && done());
    });
    await sleep((round * 17) % 80);
    await kill(child);
    await resume(run);
    const reported = Math.max(last, ...output.split('\n').slice(0, -1).map(Number));
    last = await newest(run);
    assert.ok(last >= reported, `round ${round}: found ${last}, the process had finished ${reported}`);
    assert.not(readdirSync(run).some((name) => name.startsWith('.checkpoint')), `${readdirSync(run)}`);
    assert.ok((await versionOf(join(run, 'export'))) >= last - 1);
  }
  assert.ok(last >= ROUNDS, `only ${last} steps in ${ROUNDS} rounds`);
});

/** What the child process does: hold the lock, or go on with the run and write as fast as it can. */
async function child(task: string, run: string): Promise<void> {
  if (task === 'read') {
    for (const end = Date.now() + 300; Date.now() < end;) await latestCheckpoint(run, { warn: console.error });
    return;
  }
  await acquireLock(run);
  let step = (await latestCheckpoint(run))?.step ?? 0;
  process.stdout.write('ready\n');
  if (task === 'hold') setInterval(() => {}, 1000);
  while (task === 'train') {
    step++;
    await write(join(run, 'export'), step, store.disk);
    await write(join(run, `checkpoint-${step}`), step, store.disk);
    await pruneCheckpoints(run, 2);
    process.stdout.write(`${step}\n`);
  }
}

/** Starts this very file as the child process and waits until it has the lock. */
async function start(task: string, run: string, stderr: 'inherit' | 'ignore' = 'inherit'): Promise<ChildProcess> {
  const started = spawn(process.execPath, [file], { env: asChild(task, run), stdio: ['ignore', 'pipe', stderr] });
  await new Promise((done, fail) => {
    started.stdout.once('data', done);
    started.once('exit', () => fail(new Error(`the child process for ${task} ended early`)));
  });
  return started;
}

async function kill(started: ChildProcess): Promise<void> {
  const ended = new Promise((done) => started.once('exit', done));
  started.kill('SIGKILL');
  await ended;
}

if (process.env.MATVLM_TEST_CHILD) {
  const [task, run] = JSON.parse(process.env.MATVLM_TEST_CHILD) as [string, string];
  await child(task, run);
} else {
  for (const tests of [atomic, runs, locks, kills]) tests.run();
}
