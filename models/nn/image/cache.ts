import type { RgbImage } from './image.ts';

/** Images by key, up to a number of bytes: where they would be more, those go that were not used for longest. */
export class ImageCache<K> {
  /** The least recently used first. */
  private readonly images = new Map<K, RgbImage>();
  private bytes = 0;

  constructor(private readonly budget: number) {}

  get(key: K): RgbImage | undefined {
    const image = this.images.get(key);
    if (image) {
      this.images.delete(key);
      this.images.set(key, image);
    }
    return image;
  }

  /** Keeps an image under a key that is not there yet. */
  add(key: K, image: RgbImage): void {
    this.images.set(key, image);
    this.bytes += image.data.byteLength;
    for (const [oldest, { data }] of this.images) {
      if (this.bytes <= this.budget) return;
      this.images.delete(oldest);
      this.bytes -= data.byteLength;
    }
  }
}
