import { FLAT_INDEX } from '../../engine/backends/webgpu/launch.ts';

/**
 * How a workgroup of 256 threads is laid over lines: LANES threads work on each of TILE lines of a tensor seen as
 * (outer, len, inner), a line being the `len` elements of one outer and one inner index.
 */
export interface Layout {
  readonly key: string;
  readonly lanes: number;
  readonly constants: Readonly<Record<string, number>>;
}

export const LINE_WG = 256;

function layout(lanes: number, rows: boolean): Layout {
  return {
    key: `${rows ? 'r' : 'c'}${lanes}`,
    lanes,
    constants: { LANES: lanes, TILE: LINE_WG / lanes, NEXT: rows ? 1 : LINE_WG / lanes, ROWS: rows ? 1 : 0 },
  };
}

const SHORTEST_ROWS = layout(8, true);
const SHORT_ROWS = layout(32, true);
const LONG_ROWS = layout(256, true);
const NARROW = layout(64, false);
const WIDE = layout(8, false);
const ALONE = layout(1, false);

/** The layout that reads such lines with neighbouring threads on neighbouring elements. */
export function layoutFor(len: number, inner: number): Layout {
  if (inner === 1) {
    if (len <= 64) return len <= 4 ? ALONE : SHORTEST_ROWS;
    return len <= 1024 ? SHORT_ROWS : LONG_ROWS;
  }
  if (len <= 16) return ALONE;
  return inner < 16 ? NARROW : WIDE;
}

/** WGSL: where a thread stands. Needs the constants of a Layout. Lanes of a line are NEXT apart in a workgroup. */
export const LINES = /* wgsl */ `${FLAT_INDEX}
struct Place { line: u32, lane: u32 }
fn place(group: vec3<u32>, groups: vec3<u32>, local: u32) -> Place {
  let first = flat_group(group, groups) * TILE;
  if (ROWS == 1u) { return Place(first + local / LANES, local % LANES); }
  return Place(first + local % TILE, local / TILE);
}
`;
