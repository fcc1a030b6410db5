import { parse } from 'yaml';
import type { Catalogue, CatalogueModel } from '../web/catalogue.ts';
import type { Example } from './examples.ts';
import { type OpenFiles, openInside, type ServedFolder } from './files.ts';

/** A checkpoint folder under the name that the page shows. */
export interface ServedModel extends ServedFolder {
  readonly name: string;
}

/** One whose files are open. */
export interface OpenModel extends ServedModel {
  readonly files: OpenFiles;
}

/** What is to be seen in the pictures of a data set. */
const PICTURES: Readonly<Record<string, string>> = {
  'sort-of-clevr': 'drawings of six coloured circles and squares',
  'easy-vqa': 'drawings of one coloured circle, rectangle or triangle',
};

/** Longest part of a model card that is read: its front matter comes first. */
const CARD_BYTES = 16 * 1024;

/** What the page asks for first: which models and examples there are. */
export async function catalogue(models: readonly OpenModel[], examples: readonly Example[]): Promise<Catalogue> {
  return {
    models: await Promise.all(models.map(describe)),
    examples: examples.map(({ alt, questions }, i) => ({ alt, questions, url: `/examples/${i}.png` })),
  };
}

async function describe(model: OpenModel, i: number): Promise<CatalogueModel> {
  const files = [...model.files.keys()];
  const role = files.includes('mamba_config.json') ? 'student' : 'teacher';
  return { name: model.name, role, url: `/models/${i}`, files, pictures: await picturesOf(model) };
}

/** What pictures a model was trained on, by the data sets that its card names; null where one is not known. */
async function picturesOf(folder: ServedFolder): Promise<string[] | null> {
  const sets = datasetsOf(await readCard(folder));
  const pictures = sets.map((set) => (Object.hasOwn(PICTURES, set) ? PICTURES[set] : null));
  return pictures.length > 0 && pictures.every((text) => text !== null) ? pictures : null;
}

/** The data sets in the front matter of a card; none where it has no such. */
function datasetsOf(card: string): string[] {
  const [, front] = /^---\n(.*?)\n---\n/s.exec(card) ?? [];
  try {
    const { datasets } = (parse(front ?? '', { maxAliasCount: 0 }) ?? {}) as { datasets?: unknown };
    return Array.isArray(datasets) ? datasets.map(String) : [];
  } catch {
    return [];
  }
}

/** The beginning of a folder's card; '' where it has none. */
async function readCard(folder: ServedFolder): Promise<string> {
  const handle = await openInside(folder, 'README.md');
  if (!handle) return '';
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(CARD_BYTES), 0, CARD_BYTES, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await handle.close();
  }
}
