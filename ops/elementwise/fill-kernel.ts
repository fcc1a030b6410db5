import type { Launch } from '../../engine/backends/webgpu/launch.ts';
import { byteLength, type DType, encoder } from '../../engine/dtype.ts';
import { type GpuArg } from '../../engine/positional.ts';
import { asWords, Elementwise } from './elementwise.ts';

const word = new DataView(new ArrayBuffer(4));

/** The 32-bit word that fills a GPU buffer with the value. */
function wordOf(value: number, dtype: DType): number {
  if (dtype === 'f32') word.setFloat32(0, value);
  else word.setUint32(0, encoder(dtype)(value) * (byteLength(dtype, 1) === 2 ? 0x10001 : 1));
  return word.getUint32(0);
}

const fillKernel = /* @__PURE__ */ new Elementwise({
  name: 'fill',
  reads: {},
  writes: { y: 'u32' },
  values: { y: 'params.word' },
  params: { word: 'u32' },
});

/** Writes the value everywhere in y, of any dtype. */
export function launchFill(y: GpuArg, value: number): Launch {
  return fillKernel.launch([], [asWords(y)], [wordOf(value, y.dtype)]);
}
