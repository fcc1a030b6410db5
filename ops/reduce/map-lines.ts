import type { HostArg } from '../../engine/op.ts';
import { around } from '../common/shapes.ts';

/** Reference loops along a dimension: what `f` makes of each line of the inputs, which are of one shape, is y's. */
export function mapLines(
  inputs: readonly HostArg[],
  y: HostArg,
  dim: number,
  f: (...lines: Float64Array[]) => ArrayLike<number>,
): void {
  const { outer, length, inner } = around(inputs[0].shape, dim);
  const made = around(y.shape, dim).length;
  for (let o = 0; o < outer; o++) {
    for (let c = 0; c < inner; c++) {
      const line = ({ data }: HostArg) => Float64Array.from({ length }, (_, k) => data[(o * length + k) * inner + c]);
      const values = f(...inputs.map(line));
      for (let k = 0; k < made; k++) y.data[(o * made + k) * inner + c] = values[k];
    }
  }
}
