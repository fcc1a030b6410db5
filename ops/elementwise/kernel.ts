import { type Access } from '../../engine/access.ts';
import type { GpuCaps, Launch } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, byteLength, isPlain } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import type { Slot } from '../../engine/plan.ts';
import { type KernelBody, launchElements } from '../common/launch-kernel.ts';
import { broadcastStrides, mergeDims, show } from '../common/shapes.ts';

const MAX_RANK = 8;

/** What WGSL computes on, by operand: f32 for every format of floats, u32 for bool. */
export type Types = Readonly<Record<string, Access['type']>>;
/** A WGSL expression of the operands' values by name, `i` (the element's index) and `params`. */
export type Expression = string | ((types: Types) => string);

export interface ElementwiseKernel extends Pick<KernelBody, 'params'> {
  /** Part of the shader's key; unique for the expression. */
  readonly name: string;
  /** What broadcasts to the shape of the result. The expression sees the values under these names. */
  readonly reads: Readonly<Record<string, Slot>>;
  readonly result: Slot;
  readonly value: Expression;
  /** WGSL functions that only this expression calls. */
  readonly helpers?: string;
}

/** An operand that is read. */
interface Read {
  readonly name: string;
  readonly type: Access['type'];
  /** Along the result's merged dims, 0 where it is stretched; 'same' where it lies as that does, 'one' for one element. */
  readonly walk: 'same' | 'one' | readonly number[];
  /** Whether an access serves four neighbouring elements. */
  readonly fourAtOnce: boolean;
}

/**
 * The launch of an elementwise kernel over operands of any plain or 16-bit format that broadcast to the result's shape.
 * An invocation computes four elements where the shapes let it, or the result is of 16 bits, which share words.
 */
export function elementwise(kernel: ElementwiseKernel, device: { readonly caps: Pick<GpuCaps, 'f16'> }): Launch {
  const { name, params, reads: slots, result, value, helpers = '' } = kernel;
  const { shape, size } = result;
  const { sizes, strides } = mergeDims(shape, Object.values(slots).map((slot) => broadcastStrides(slot.shape, shape)));
  if (sizes.length > MAX_RANK) {
    throw new ShapeError(`${show(shape)} broadcasts along more dimensions than ${MAX_RANK}; reshape or expand first`);
  }
  // Nothing that is stretched or repeated begins or ends within four elements that lie together.
  const fours = sizes.length <= 1 || sizes[sizes.length - 1] % 4 === 0;
  const wide = fours || !isPlain(result.dtype);
  const typeOf = ({ dtype }: Slot) => accessOf(dtype, device.caps).type;
  const reads = Object.entries(slots).map(([name, slot], k): Read => {
    const walk = slot.size === size ? 'same' : slot.size === 1 ? 'one' : strides[k];
    return { name, type: typeOf(slot), walk, fourAtOnce: wide && (fours || typeof walk === 'string') };
  });
  const walks = reads.map(({ walk, fourAtOnce }) => {
    const steps = typeof walk === 'string' ? walk : walk.map((stride) => Math.min(stride, 1)).join('');
    return `${steps}${fourAtOnce ? 'v' : ''}`;
  });
  const types = Object.fromEntries(Object.entries({ ...slots, result }).map(([name, slot]) => [name, typeOf(slot)]));
  const call = (index: string, part: string) => `value_of(${[index, ...reads.map(({ name }) => name + part)].join(', ')})`;
  const four = ['x', 'y', 'z', 'w'].map((part, k) => call(`4u * i + ${k}u`, `.${part}`));
  return launchElements(device, wide ? Math.ceil(size / 4) : size, {
    key: [name, ...walks].join('.'),
    reads: slots,
    writes: { result },
    wide: [...reads.filter(inOnePiece).map(({ name }) => name), ...(wide ? ['result'] : [])],
    params: { ...params, ...walkParams(reads, sizes, fours) },
    declarations() {
      const args = ['i: u32', ...reads.map(({ name, type }) => `${name}: ${type}`)];
      const expression = typeof value === 'string' ? value : value(types);
      return `${helpers}\nfn value_of(${args.join(', ')}) -> ${types.result} { return ${expression}; }`;
    },
    body: () =>
      [
        ...reads.map((read) => `let ${read.name} = ${load(read, wide)};`),
        `store_result(i, ${wide ? `vec4<${types.result}>(${four.join(', ')})` : call('i', '')});`,
      ].join('\n  '),
  });
}

/** The launch of a kernel over the 32-bit words of buffers, whatever the dtypes. */
export function onWords({ reads, result, ...kernel }: ElementwiseKernel): Launch {
  const words = ({ slot, dtype, size }: Slot): Slot => {
    const count = Math.ceil(byteLength(dtype, size) / 4);
    return { slot, dtype: 'u32', size: count, shape: [count] };
  };
  const read = Object.fromEntries(Object.entries(reads).map(([name, slot]) => [name, words(slot)]));
  return elementwise({ ...kernel, reads: read, result: words(result) }, { caps: { f16: false } });
}

/** Whether the four elements that an invocation needs of the operand lie together. */
function inOnePiece({ walk, fourAtOnce }: Read): boolean {
  return fourAtOnce && walk !== 'one' && (walk === 'same' || walk[walk.length - 1] === 1);
}

/** Sizes of the dims that operands are not simply read through, and their strides: in elements, or in fours. */
function walkParams(reads: readonly Read[], sizes: readonly number[], fours: boolean) {
  const params: Record<string, number> = {};
  const unit = fours ? 4 : 1;
  const last = sizes.length - 1;
  let below = 1;
  for (let d = last; d >= 0; d--) {
    const size = d === last ? sizes[d] / unit : sizes[d];
    for (const read of reads) {
      const stride = typeof read.walk === 'string' ? 0 : read.walk[d];
      if (stride === 0) continue;
      params[`size${d}`] = size;
      if (d === last) continue;
      params[`below${d}`] = below;
      params[`${read.name}_stride${d}`] = inOnePiece(read) ? stride / unit : stride;
    }
    below *= size;
  }
  return params;
}

/** WGSL: where the operand's element lies that belongs to element, or to the four, of that index. */
function place({ name, walk }: Read, index: string): string {
  if (typeof walk === 'string') return walk === 'same' ? index : '0u';
  const last = walk.length - 1;
  const terms = walk.map((stride, d) => {
    const above = d === last ? index : `${index} / params.below${d}`;
    const own = d === 0 ? above : `(${above}) % params.size${d}`;
    return stride === 0 ? [] : [d === last ? own : `(${own}) * params.${name}_stride${d}`];
  });
  return terms.flat().join(' + ');
}

function load(read: Read, wide: boolean): string {
  const vector = `vec4<${read.type}>`;
  const one = (index: string) => `load_${read.name}(${place(read, index)})`;
  if (inOnePiece(read) || !wide) return one('i');
  if (read.fourAtOnce) return `${vector}(${one('i')})`;
  return `${vector}(${[0, 1, 2, 3].map((k) => one(`(4u * i + ${k}u)`)).join(', ')})`;
}

/** WGSL: whether a value is not 0; of f32 by the bits, because drivers may take a comparison with NaN for false. */
export function holds(name: string, type: Access['type']): string {
  return type === 'f32' ? `((bitcast<u32>(${name}) << 1u) != 0u)` : `(${name} != 0)`;
}
