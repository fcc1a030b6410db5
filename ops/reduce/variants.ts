/**
 * Kernels along a dimension see a tensor as (outer, length, inner): a line is the `length` elements of one outer and
 * one inner index.
 */
export interface Lines {
  readonly lines: number;
  readonly length: number;
  readonly inner: number;
}

/** How the threads of a workgroup share lines. */
export interface Variant {
  readonly name: string;
  when(sizes: Lines): boolean;
  /** Threads that work on one line; the workgroup has as many lines as that leaves room for. */
  readonly lanes: number;
  /** Whether neighbouring threads are on the same line, or else on neighbouring lines. */
  readonly along: boolean;
}

export const WORKGROUP = 256;

/** The first that fits is taken: neighbouring threads read neighbouring elements. */
const VARIANTS: readonly Variant[] = [
  { name: 'tiny', when: ({ length, inner }) => length <= (inner === 1 ? 4 : 16), lanes: 1, along: false },
  { name: 'short', when: ({ length, inner }) => inner === 1 && length <= 64, lanes: 8, along: true },
  { name: 'medium', when: ({ lines, length, inner }) => inner === 1 && length <= 1024 && lines >= 64, lanes: 32, along: true },
  { name: 'long', when: ({ inner }) => inner === 1, lanes: WORKGROUP, along: true },
  { name: 'narrow', when: ({ inner }) => inner < 16, lanes: 64, along: false },
  { name: 'wide', when: () => true, lanes: 8, along: false },
];

export function variantFor(sizes: Lines): Variant {
  return VARIANTS.find(({ when }) => when(sizes))!;
}

/** Constants of the WGSL that lays out a workgroup so. Lanes of a line are NEXT apart in it. */
export function layoutOf({ lanes, along }: Variant): Readonly<Record<string, number>> {
  return { LANES: lanes, TILE: WORKGROUP / lanes, NEXT: along ? 1 : WORKGROUP / lanes, ALONG: along ? 1 : 0 };
}
