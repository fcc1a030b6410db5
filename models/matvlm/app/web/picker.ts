import type { CatalogueExample } from './catalogue.ts';
import { byId, make } from './dom.ts';
import { printable } from '../printable.ts';
import type { ImageFile, Looked } from './protocol.ts';

/** Files above this are refused before they are read. */
const FILE_LIMIT = 64 * 2 ** 20;

/** Below this many pixels a side, pixels are shown as squares. */
const PIXEL_ART = 200;

/** The picture that questions are about. */
export interface Picture {
  readonly file: ImageFile;
  /** An address to show it by. */
  readonly url: string;
  readonly alt: string;
  readonly looked: Looked;
  /** Questions whose answers are known; none for a user's own picture. */
  readonly example: CatalogueExample | null;
}

/** Lets a picture be chosen: by the file dialog, by drop, by paste, or from the examples. */
export class Picker {
  picture: Picture | null = null;
  private lastId = 0;
  private ownUrl = '';
  private readonly preview = byId<HTMLImageElement>('preview');
  private readonly drop = byId('drop');
  private readonly input = byId<HTMLInputElement>('file');

  /**
   * @param look resolves when a picture can be used, rejects with what is wrong with it
   * @param onPick hears of a picture that was taken
   * @param onError hears of one that was not
   */
  constructor(
    private readonly look: (file: ImageFile) => Promise<Looked>,
    private readonly onPick: (picture: Picture) => void,
    private readonly onError: (error: Error) => void,
  ) {
    this.preview.addEventListener('load', () => {
      const { naturalWidth, naturalHeight } = this.preview;
      this.preview.classList.toggle('pixels', Math.max(naturalWidth, naturalHeight) < PIXEL_ART);
    });
    this.input.addEventListener('change', () => {
      this.takeFirst(this.input.files);
      // The same file may be chosen again.
      this.input.value = '';
    });
    document.addEventListener('paste', (event) => this.takeFirst(event.clipboardData?.files));
    this.watchDrops();
  }

  /** Shows the examples and takes the first. */
  async offer(examples: readonly CatalogueExample[]): Promise<void> {
    const buttons = examples.map((example) => {
      const label = `Example: ${example.alt}`;
      const button = make('button', '', { type: 'button', 'aria-label': label, 'aria-pressed': 'false' });
      button.append(make('img', '', { src: example.url, alt: '', width: '75', height: '75' }));
      button.addEventListener('click', () => void this.takeExample(example));
      return button;
    });
    byId('examples').replaceChildren(...buttons);
    if (examples.length > 0) await this.takeExample(examples[0]);
  }

  private async takeExample(example: CatalogueExample): Promise<void> {
    try {
      const response = await fetch(example.url);
      if (!response.ok) throw new Error(`the server answered ${response.status}; is it still running?`);
      await this.take(await response.arrayBuffer(), example.url, example.alt, example);
    } catch (error) {
      this.onError(error as Error);
    }
  }

  private takeFirst(files: FileList | null | undefined): void {
    const file = files?.[0];
    if (file) void this.takeFile(file).catch(this.onError);
  }

  private async takeFile(file: File): Promise<void> {
    if (file.size > FILE_LIMIT) {
      const [has, most] = [file.size, FILE_LIMIT].map((size) => Math.round(size / 2 ** 20));
      throw new Error(`${file.name} has ${has} MB; at most ${most} are read`);
    }
    const bytes = await file.arrayBuffer();
    const url = URL.createObjectURL(file);
    try {
      await this.take(bytes, url, file.name, null);
      if (this.ownUrl) URL.revokeObjectURL(this.ownUrl);
      this.ownUrl = url;
    } catch (error) {
      URL.revokeObjectURL(url);
      throw error;
    }
  }

  private async take(bytes: ArrayBuffer, url: string, alt: string, example: CatalogueExample | null): Promise<void> {
    const file = { id: ++this.lastId, bytes };
    const looked = await this.look(file);
    // A later choice was quicker.
    if (file.id < (this.picture?.file.id ?? 0)) return;
    this.picture = { file, url, alt, looked, example };
    this.preview.src = url;
    this.preview.alt = printable(alt);
    this.preview.hidden = false;
    this.drop.classList.add('full');
    for (const button of byId('examples').children) {
      button.setAttribute('aria-pressed', String(button.firstElementChild!.getAttribute('src') === url));
    }
    this.onPick(this.picture);
  }

  /** The whole page takes drops, so that a near miss does not replace the page by the picture. */
  private watchDrops(): void {
    let depth = 0;
    const over = (change: number) => {
      depth = Math.max(0, depth + change);
      this.drop.classList.toggle('over', depth > 0);
    };
    document.addEventListener('dragenter', () => over(1));
    document.addEventListener('dragleave', () => over(-1));
    document.addEventListener('dragover', (event) => event.preventDefault());
    document.addEventListener('drop', (event) => {
      event.preventDefault();
      over(-depth);
      this.takeFirst(event.dataTransfer?.files);
    });
  }
}
