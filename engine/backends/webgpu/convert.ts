import { accessor } from '../../access.ts';
import { accessOf } from '../../dtype.ts';
import type { Slot } from '../../plan.ts';
import { type GpuCaps, grid1d, type Launch, shader } from './launch.ts';

/** Converts between f32 and 16-bit floats, or from a block format to f32; copies where both are stored alike. */
export function convert(from: Slot, to: Slot, caps: GpuCaps): Launch {
  const [x, y] = [from, to].map(({ dtype }) => accessor(accessOf(dtype, caps), 'four'));
  const kernel = shader(`convert.${x.key}.${y.key}`, () => ({
    reads: { x },
    writes: { y },
    params: { fours: 'u32' },
    workgroup: 256,
    code: /* wgsl */ `
fn kernel(group: u32, local: u32) {
  let i = group * WG + local;
  if (i < params.fours) { store_y(i, load_x(i)); }
}`,
  }));
  const fours = Math.ceil(to.size / 4);
  return { shader: kernel, args: [from, to], params: [fours], grid: grid1d(fours, 256) };
}
