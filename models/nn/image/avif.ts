import { ImageError } from '../errors.ts';

/** Names of boxes and brands are four letters; one beyond the end reads as none. */
function name(bytes: Uint8Array, at: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + 4));
}

interface Box {
  readonly type: string;
  /** Where its content begins and ends. */
  readonly from: number;
  readonly to: number;
}

/** The boxes of an ISO base media file between two bytes, in order. Those after one that does not fit are left out. */
function* boxes(bytes: Uint8Array, from: number, to: number): Generator<Box> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = from; at + 8 <= to; ) {
    const size = view.getUint32(at);
    // 0 is "to the end", 1 a size of 64 bits: neither is of use before the pixels.
    const end = size === 0 ? to : at + size;
    if (size === 1 || end < at + 8 || end > to) return;
    yield { type: name(bytes, at + 4), from: at + 8, to: end };
    at = end;
  }
}

/** The first box that a path of types leads to. `meta` begins with four bytes of version and flags. */
function find(bytes: Uint8Array, path: readonly string[], from = 0, to = bytes.length): Box | null {
  for (const box of boxes(bytes, from, to)) {
    if (box.type !== path[0]) continue;
    if (path.length === 1) return box;
    return find(bytes, path.slice(1), box.from + (box.type === 'meta' ? 4 : 0), box.to);
  }
  return null;
}

/** Whether a file says that it is AVIF: as its major brand, or as one that it is compatible with. */
export function isAvif(bytes: Uint8Array): boolean {
  if (name(bytes, 4) !== 'ftyp') return false;
  const ftyp = find(bytes, ['ftyp']);
  if (!ftyp) return false;
  for (let at = ftyp.from; at + 4 <= ftyp.to; at += 4) if (['avif', 'avis'].includes(name(bytes, at))) return true;
  return false;
}

/**
 * Size of an AVIF image, as stored, and whether it may be transparent: by its item properties, of which the largest
 * extent is that of the whole (the others are of tiles and of the alpha plane).
 * @throws ImageError where it has none
 */
export function readAvif(bytes: Uint8Array): { width: number; height: number; alpha: boolean } {
  const properties = find(bytes, ['meta', 'iprp', 'ipco']);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let largest = { width: 0, height: 0 };
  let alpha = false;
  for (const { type, from, to } of properties ? boxes(bytes, properties.from, properties.to) : []) {
    if (type === 'ispe' && to - from >= 12) {
      const [width, height] = [view.getUint32(from + 4), view.getUint32(from + 8)];
      if (width * height > largest.width * largest.height) largest = { width, height };
    }
    alpha ||= type === 'auxC' && /auxid:1\0|:alpha\0/.test(String.fromCharCode(...bytes.subarray(from + 4, Math.min(to, from + 100))));
  }
  if (largest.width === 0) throw new ImageError('The AVIF image does not tell its size; the file is truncated or damaged.');
  return { ...largest, alpha };
}
