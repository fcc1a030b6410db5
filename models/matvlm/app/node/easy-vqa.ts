import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { DataError } from '../../../nn/errors.ts';
import type { Split } from '../../data/dataset.ts';
import { EasyVqa } from '../../data/easy-vqa.ts';
import { ImageCache } from '../../../nn/image/cache.ts';
import type { RgbImage } from '../../../nn/image/image.ts';
import { readImage } from './decode.ts';
import { fetchEasyVqa, type FetchOptions, isPublicEasyVqa } from './easy-vqa-fetch.ts';

/** Bytes of decoded images that are kept. */
const CACHE_BYTES = 64 * 2 ** 20;

const HINT =
  'expected answers.txt and, in train and in test, questions.json and images/N.png; without =FOLDER the public set is ' +
  'fetched from its home';

function readText(folder: string, name: string): string {
  const path = join(folder, name);
  try {
    // A device or a pipe would be read without end.
    if (statSync(path).isFile()) return readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new DataError(`easy-VQA: ${path} cannot be read (${code}); ${HINT}.`, { cause: error });
  }
  throw new DataError(`easy-VQA: ${path} is no file; ${HINT}.`);
}

/** Checks that every image that is asked about is there; DataError counts the missing and names the first. */
function checkImages(set: EasyVqa, images: string): void {
  const present = new Set(existsSync(images) ? readdirSync(images) : []);
  const missing = set.images.filter((n) => !present.has(`${n}.png`));
  if (missing.length === 0) return;
  throw new DataError(
    `easy-VQA: ${missing.length} of ${set.length} images are missing in ${images}, the first is ${missing[0]}.png; ` +
      `${HINT}.`,
  );
}

/** Which folders hold the public set: 20 MB are read to tell. */
const known = new Map<string, boolean>();

/** `easy-vqa` for the public set, `easy-vqa=<the folder's own name>` for any other in its layout. */
function nameOf(folder: string): string {
  const path = resolve(folder);
  const isPublic = known.get(path) ?? isPublicEasyVqa(path);
  known.set(path, isPublic);
  return isPublic ? 'easy-vqa' : `easy-vqa=${basename(path)}`;
}

/**
 * Opens a folder laid out as the public one: answers.txt, `<split>/questions.json`, `<split>/images/N.png`.
 * Decoded images stay in memory up to 64 MiB, which are all of the public set.
 * @param name what the set is called; told from its content unless given
 * @throws DataError that names what is missing or malformed
 */
export function openEasyVqa(folder: string, split: Split, name = nameOf(folder)): EasyVqa {
  const answers = readText(folder, 'answers.txt');
  const questions = readText(folder, join(split, 'questions.json'));
  const images = join(folder, split, 'images');
  const decoded = new ImageCache<number>(CACHE_BYTES);
  const loadImage = async (n: number): Promise<RgbImage> => {
    const kept = decoded.get(n);
    if (kept) return kept;
    const image = await readImage(join(images, `${n}.png`));
    if (!decoded.get(n)) decoded.add(n, image);
    return image;
  };
  const set = new EasyVqa({ name, split, questions, answers, loadImage });
  checkImages(set, images);
  return set;
}

/**
 * The set from `folder` if one is given, else from the cache, into which it is fetched the first time.
 * @throws DataError, see `openEasyVqa` and `fetchEasyVqa`
 */
export async function loadEasyVqa(split: Split, options: FetchOptions & { folder?: string } = {}): Promise<EasyVqa> {
  if (options.folder !== undefined) return openEasyVqa(options.folder, split);
  return openEasyVqa(await fetchEasyVqa(options), split, 'easy-vqa');
}
