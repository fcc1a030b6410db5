import { type Access, accessor } from '../../engine/access.ts';
import { FLAT_INDEX, type GpuCaps, grid1d, type Launch, type Scalar, shader } from '../../engine/backends/webgpu/launch.ts';
import { accessOf, byteLength, isPlain } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import type { Slot } from '../../engine/plan.ts';
import { broadcastStrides, show } from '../common/shapes.ts';

/**
 * How an operand is read at output element i. A row repeats along leading dims (a bias), a column is stretched along
 * trailing ones (a factor per token); anything else goes through strides.
 */
export const SAME = 0;
export const ROW = 1;
export const COLUMN = 2;
export const SCALAR = 3;
const STRIDED = 4;

const MAX_RANK = 8;
const WG = 256;

/** What WGSL computes on, by operand: f32 for every format of floats, u32 for bool. */
export type Types = Readonly<Record<string, Access['type']>>;
/** A WGSL expression of the operands' values by name, `i` (the element's index) and `params`. */
export type Expression = string | ((types: Types) => string);

export interface ElementwiseKernel {
  /** Part of the shader's key; unique for expressions and helpers. */
  readonly name: string;
  /** What broadcasts to the shape of what is written. Expressions see the values under these names. */
  readonly reads: Readonly<Record<string, Slot>>;
  /** Tensors of one shape. */
  readonly writes: Readonly<Record<string, Slot>>;
  /** The value of each output. */
  readonly values: Readonly<Record<string, Expression>>;
  readonly params?: Readonly<Record<string, readonly [type: Scalar, value: number]>>;
  /** Functions that the expressions call. */
  readonly helpers?: string;
  /** The outputs are read first: expressions see their old values under the outputs' names. */
  readonly update?: boolean;
}

/** An operand that is read, and how. */
interface Read extends Mode {
  readonly name: string;
  readonly slot: Slot;
  readonly access: Access;
  /** Whether one access serves four neighbouring elements. */
  readonly fourAtOnce: boolean;
}

/**
 * The launch of an elementwise kernel over operands of any plain or 16-bit format that broadcast to the outputs' shape.
 * An invocation computes four elements where the shapes let it, or the outputs are of 16 bits, which share words.
 */
export function elementwise(kernel: ElementwiseKernel, caps: Pick<GpuCaps, 'f16'>): Launch {
  const { name, params = {}, reads: slots, writes } = kernel;
  const outputs = Object.values(writes);
  const { shape, size } = outputs[0];
  const modes = Object.values(slots).map((slot) => modeOf(slot, shape, size));
  const regular = (mode: Mode) => mode.kind !== STRIDED && mode.step % 4 === 0;
  const wide = modes.every(regular) || outputs.some(({ dtype }) => !isPlain(dtype));
  const reads = Object.entries(slots).map(([name, slot], k): Read => {
    return { ...modes[k], name, slot, access: accessOf(slot.dtype, caps), fourAtOnce: wide && regular(modes[k]) };
  });
  const threads = wide ? Math.ceil(size / 4) : size;
  const index = indexParams(reads, shape);
  const given: Record<string, readonly [Scalar, number]> = { threads: ['u32', threads], ...params, ...index };
  const bound = {
    reads: Object.fromEntries(
      reads.map(({ name, access, kind, fourAtOnce }) => [name, accessor(access, fourAtOnce && kind <= ROW)]),
    ),
    writes: Object.fromEntries(
      Object.entries(writes).map(([name, { dtype }]) => [name, accessor(accessOf(dtype, caps), wide)]),
    ),
  };
  const formats = [...Object.values(bound.reads), ...Object.values(bound.writes)].map(({ key }) => key);
  const how = reads.map(({ kind, fourAtOnce }) => `${kind}${fourAtOnce ? 'v' : ''}`);
  return {
    shader: shader([name, ...formats, ...how].join('.'), () => ({
      ...bound,
      params: Object.fromEntries(Object.entries(given).map(([name, [type]]) => [name, type])),
      constants: { WG },
      code: code(kernel, reads, wide, caps),
    })),
    args: [...reads.map(({ slot }) => slot), ...outputs],
    params: Object.values(given).map(([, value]) => value),
    grid: grid1d(threads, WG),
  };
}

/** A tensor of any dtype as the 32-bit words of its buffer. */
export function asWords(arg: Slot): Slot {
  const size = Math.ceil(byteLength(arg.dtype, arg.size) / 4);
  return { slot: arg.slot, dtype: 'u32', size, shape: [size] };
}

/** `kind`; elements of a row or elements that share one of a column; elements of the column. */
interface Mode {
  readonly kind: number;
  readonly step: number;
  readonly count: number;
}

const MODE_SAME: Mode = { kind: SAME, step: 4, count: 0 };
const MODE_SCALAR: Mode = { kind: SCALAR, step: 4, count: 0 };
const MODE_STRIDED: Mode = { kind: STRIDED, step: 0, count: 0 };

type Sized = Pick<Slot, 'shape' | 'size'>;

/** How `arg` is read for an output of shape `target` with `size` elements. */
export function modeOf(arg: Sized, target: readonly number[], size: number): Mode {
  if (arg.size === size) return MODE_SAME;
  if (arg.size === 1) return MODE_SCALAR;
  const offset = target.length - arg.shape.length;
  let last = arg.shape.length - 1;
  while (arg.shape[last] === 1) last--;
  let inner = 1;
  for (let i = last + 1; i < arg.shape.length; i++) inner *= target[i + offset];
  if (!matches(arg, target, last, offset)) return MODE_STRIDED;
  return inner === 1 ? { kind: ROW, step: arg.size, count: 0 } : { kind: COLUMN, step: inner, count: arg.size };
}

/** Whether the dims of `arg` up to `last` are those of the target, but for leading ones. */
function matches(arg: Sized, target: readonly number[], last: number, offset: number): boolean {
  let i = last;
  let rest = arg.size;
  while (i >= 0 && rest > 1) {
    if (arg.shape[i] !== target[i + offset]) return false;
    rest /= arg.shape[i--];
  }
  return true;
}

/** What the operands' places are computed from: steps in elements, or in fours where they are read so. */
function indexParams(reads: readonly Read[], target: readonly number[]): Record<string, readonly [Scalar, number]> {
  const params: Record<string, readonly [Scalar, number]> = {};
  for (const { name, kind, step, count, fourAtOnce } of reads) {
    if (kind === ROW || kind === COLUMN) params[`${name}_step`] = ['u32', fourAtOnce ? step / 4 : step];
    if (kind === COLUMN) params[`${name}_count`] = ['u32', count];
  }
  const strided = reads.filter(({ kind }) => kind === STRIDED);
  if (strided.length === 0) return params;
  const { sizes, strides } = mergeDims(target, strided.map(({ slot }) => broadcastStrides(slot.shape, target)));
  if (sizes.length > MAX_RANK) {
    throw new ShapeError(`${show(target)} broadcasts along more dimensions than ${MAX_RANK}; reshape or expand first`);
  }
  const put = (prefix: string, values: readonly number[], filler: number) => {
    const lead = MAX_RANK - values.length;
    for (let k = 0; k < MAX_RANK; k++) params[prefix + k] = ['u32', k < lead ? filler : values[k - lead]];
  };
  strided.forEach(({ name }, k) => put(`${name}_stride`, strides[k], 0));
  put('size', sizes, 1);
  return params;
}

/** Drops dims of size 1 and merges neighbours that every set of strides walks through without a jump. */
function mergeDims(
  shape: readonly number[],
  strides: readonly (readonly number[])[],
): { sizes: number[]; strides: number[][] } {
  const sizes: number[] = [];
  const merged: number[][] = strides.map(() => []);
  for (let d = 0; d < shape.length; d++) {
    if (shape[d] === 1) continue;
    const top = sizes.length - 1;
    if (top >= 0 && strides.every((own, k) => merged[k][top] === own[d] * shape[d])) {
      sizes[top] *= shape[d];
      strides.forEach((own, k) => (merged[k][top] = own[d]));
    } else {
      sizes.push(shape[d]);
      strides.forEach((own, k) => merged[k].push(own[d]));
    }
  }
  return { sizes, strides: merged };
}

const AXES = Array.from({ length: MAX_RANK }, (_, k) => k);

/** WGSL: where the operand's element lies that belongs to element, or to the four, of that index. */
function place({ name, kind }: Read, index: string): string {
  switch (kind) {
    case SAME:
      return index;
    case ROW:
      return `${index} % params.${name}_step`;
    case COLUMN:
      return `(${index} / params.${name}_step) % params.${name}_count`;
    case SCALAR:
      return '0u';
    default:
      return `place_of_${name}(${index})`;
  }
}

function load(read: Read, wide: boolean): string {
  const { name, access, kind, fourAtOnce } = read;
  const one = (index: string) => `load_${name}(${place(read, index)})`;
  if (fourAtOnce) return kind <= ROW ? one('i') : `vec4<${access.type}>(${one('i')})`;
  return wide ? `vec4<${access.type}>(${[0, 1, 2, 3].map((k) => one(`(4u * i + ${k}u)`)).join(', ')})` : one('i');
}

function code(kernel: ElementwiseKernel, reads: readonly Read[], wide: boolean, caps: Pick<GpuCaps, 'f16'>): string {
  const { writes, values, helpers = '', update } = kernel;
  const outputs = Object.keys(writes);
  const types: Record<string, Access['type']> = {};
  for (const { name, access } of reads) types[name] = access.type;
  for (const name of outputs) types[name] = accessOf(writes[name].dtype, caps).type;
  const names = [...reads.map(({ name }) => name), ...(update ? outputs : [])];
  // One function an output: its value for one element.
  const functions = outputs.map((name) => {
    const value = values[name];
    const expression = typeof value === 'string' ? value : value(types);
    const args = ['i: u32', ...names.map((arg) => `${arg}: ${types[arg]}`)];
    return `fn value_of_${name}(${args.join(', ')}) -> ${types[name]} { return ${expression}; }`;
  });
  const call = (name: string, index: string, part: string) =>
    `value_of_${name}(${[index, ...names.map((arg) => arg + part)].join(', ')})`;
  const four = (name: string) => ['x', 'y', 'z', 'w'].map((part, k) => call(name, `4u * i + ${k}u`, `.${part}`));
  const lines = [
    ...reads.map((read) => `let ${read.name} = ${load(read, wide)};`),
    ...(update ? outputs : []).map((name) => `let ${name} = load_${name}(i);`),
    ...outputs.map((name) => `store_${name}(i, ${wide ? `vec4<${types[name]}>(${four(name)})` : call(name, 'i', '')});`),
  ];
  return [helpers, ...functions, ...placesOf(reads), FLAT_INDEX, /* wgsl */ `
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.threads) { return; }
  ${lines.join('\n  ')}
}`].join('\n');
}

/** WGSL: coordinates in the merged dims, and for each strided operand its place from them. */
function placesOf(reads: readonly Read[]): string[] {
  const strided = reads.filter(({ kind }) => kind === STRIDED);
  if (strided.length === 0) return [];
  const digits = [...AXES].reverse().map((k) => `  at[${k}] = rest % params.size${k}; rest /= params.size${k};`);
  return [/* wgsl */ `
fn coordinates(i: u32) -> array<u32, ${MAX_RANK}> {
  var at: array<u32, ${MAX_RANK}>;
  var rest = i;
${digits.join('\n')}
  return at;
}`, ...strided.map(({ name }) => /* wgsl */ `
fn place_of_${name}(i: u32) -> u32 {
  let at = coordinates(i);
  return ${AXES.map((k) => `at[${k}] * params.${name}_stride${k}`).join(' + ')};
}`)];
}

/** WGSL: whether a value is not 0; of f32 by the bits, because drivers may take a comparison with NaN for false. */
export function holds(name: string, type: Access['type']): string {
  return type === 'f32' ? `((bitcast<u32>(${name}) << 1u) != 0u)` : `(${name} != 0)`;
}

