/**
 * A safetensors file made without the writer under test: length of the header, which a given one replaces, header, and
 * data, or so many zeros.
 */
export function fileOf(
  header: string | Uint8Array,
  data: Uint8Array | number,
  length?: number | bigint,
): Uint8Array<ArrayBuffer> {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const rest = typeof data === 'number' ? new Uint8Array(data) : data;
  const bytes = new Uint8Array(8 + text.length + rest.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length ?? text.length), true);
  bytes.set(text, 8);
  bytes.set(rest, 8 + text.length);
  return bytes;
}
