import { ArgumentError } from '../../../../engine/errors.ts';
import type { Split, VqaDataset } from '../../data/dataset.ts';
import { SortOfClevr } from '../../data/sort-of-clevr.ts';
import { loadEasyVqa } from './easy-vqa.ts';

const KNOWN = 'sort-of-clevr, easy-vqa, easy-vqa=FOLDER';

/**
 * Opens data sets by what `--data` names: `sort-of-clevr` is drawn on the spot, `easy-vqa=FOLDER` is read, and
 * `easy-vqa` is fetched into a cache the first time.
 * @param images of each set at most, from the first
 * @throws ArgumentError for an unknown name, or two sets of one; DataError for a folder that is not as expected
 */
export async function openDatasets(
  specs: readonly string[],
  split: Split,
  images: number | null = null,
  signal?: AbortSignal,
): Promise<VqaDataset[]> {
  const sets = await Promise.all(specs.map(async (spec) => first(await openDataset(spec, split, signal), images)));
  const twice = sets.find(({ name }, i) => sets.findIndex((set) => set.name === name) !== i);
  if (!twice) return sets;
  const both = specs.filter((_, i) => sets[i].name === twice.name).join(' and ');
  throw new ArgumentError(`--data: ${both} are both "${twice.name}"; give one, or rename a folder where they differ`);
}

async function openDataset(spec: string, split: Split, signal?: AbortSignal): Promise<VqaDataset> {
  const [name, folder] = spec.split(/=(.*)/s);
  if (name === 'sort-of-clevr' && folder === undefined) return new SortOfClevr(split);
  if (name === 'easy-vqa' && folder !== '') return loadEasyVqa(split, { folder, signal });
  throw new ArgumentError(`--data: "${spec}" is no data set; known are ${KNOWN}`);
}

/** The first images of a set. */
function first(set: VqaDataset, images: number | null): VqaDataset {
  if (images === null || images >= set.length) return set;
  const { name, split } = set;
  return { name, split, length: images, get: (i) => set.get(i), variant: set.variant && ((i, seed) => set.variant!(i, seed)) };
}
