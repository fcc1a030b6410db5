import { mkdtemp, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { diskFolder, systemError } from '../../../../../engine/node/index.ts';
import { closeBackend, openBackend } from '../../node/backend.ts';
import { openDatasets } from '../../node/datasets.ts';
import { modelFolder, readModel } from '../../node/model-folder.ts';
import { loadVlm } from '../../../vlm.ts';
import { writeFileAtomic } from '../../store/index.ts';
import type { evalTable } from './eval.ts';
import { accuracyTable, evaluateAll } from '../training/evaluation.ts';
import { interrupted } from '../terminal/interrupt.ts';
import type { Settings } from '../options/options.ts';
import { print, printJson, say, warn } from '../terminal/output.ts';
import { warnUnspoken } from '../training/vocabulary.ts';

/** `matvlm eval MODEL` */
export async function evalModel(settings: Settings<typeof evalTable>, spec: string, json: boolean): Promise<void> {
  if (settings.out) await expectWritable(settings.out);
  await modelFolder(spec, warn);
  const signal = interrupted('Stopping without a result; Ctrl-C again quits at once.');
  const sets = await openDatasets(settings.data, settings.split, settings.images, signal);
  const backend = await openBackend(settings.backend, say);
  try {
    const load = async (folder: string) => ({ folder, vlm: await loadVlm(diskFolder(folder), backend, { signal }) });
    const { folder, vlm } = await readModel(spec, load);
    warnUnspoken(sets, vlm);
    const { total, correct, byKind, samples } = await evaluateAll(vlm, sets, {
      batch: settings.batch,
      signal,
      label: 'eval',
    });
    vlm.dispose();
    const result = {
      model: folder,
      data: settings.data,
      split: settings.split,
      total,
      correct,
      byKind: Object.fromEntries(byKind),
    };
    if (settings.out) await writeFileAtomic(settings.out, `${JSON.stringify({ ...result, samples }, null, 2)}\n`);
    if (json) printJson(result);
    else print(accuracyTable(new Map([[spec, { total, correct, byKind, samples }]])));
  } finally {
    closeBackend(backend);
  }
}

/** Fails before the work, not after it, where a file could not be written. @throws SystemError naming it and the cause */
async function expectWritable(path: string): Promise<void> {
  try {
    await rmdir(await mkdtemp(join(dirname(path), '.matvlm-')));
    const isFolder = (await stat(path).catch(() => null))?.isDirectory();
    if (isFolder) throw Object.assign(new Error(path), { code: 'EISDIR' });
  } catch (error) {
    throw systemError('write', path, error);
  }
}
