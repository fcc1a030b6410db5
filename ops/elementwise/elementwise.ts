import { FLAT_INDEX, grid1d, type Launch, shader, type Shader } from '../../engine/backends/webgpu/launch.ts';
import { byteLength } from '../../engine/dtype.ts';
import { ShapeError } from '../../engine/errors.ts';
import { type GpuArg } from '../../engine/positional.ts';
import { broadcastStrides, show } from '../common/shapes.ts';

/**
 * How an argument is read at output element i. A row repeats along leading dims (a bias), a column is stretched along
 * trailing ones (a factor per token); anything else goes through strides.
 */
export const SAME = 0;
export const ROW = 1;
export const COLUMN = 2;
export const SCALAR = 3;
const STRIDED = 4;
const MODES = 5;

const MAX_RANK = 8;
const WG = 256;

export interface ElementwiseSpec {
  /** Prefix of the pipeline key; unique. */
  readonly name: string;
  /** Inputs and their WGSL element types (f32, i32, u32), in order. Expressions see them under these names. */
  readonly reads: Readonly<Record<string, string>>;
  /** Outputs and their WGSL element types, in order. */
  readonly writes: Readonly<Record<string, string>>;
  /** The value of each output: an expression of the inputs, `i` (the element's index) and `params`. */
  readonly values: Readonly<Record<string, string>>;
  readonly params?: Readonly<Record<string, 'u32' | 'i32' | 'f32'>>;
  /** Functions that the expressions call. */
  readonly helpers?: string;
  /** The outputs are read first: expressions see their old values under the outputs' names. */
  readonly update?: boolean;
}

/**
 * An elementwise kernel over inputs that broadcast to the outputs' shape. Reads and writes four elements a thread
 * where the shapes let it; compiles one pipeline per way of indexing.
 */
export class Elementwise {
  private readonly readNames: readonly string[];
  private readonly shaders = new Map<number, Shader>();

  constructor(private readonly spec: ElementwiseSpec) {
    this.readNames = Object.keys(spec.reads);
  }

  /** @param params values of the spec's params, in order */
  launch(inputs: readonly GpuArg[], outputs: readonly GpuArg[], params: readonly number[] = []): Launch {
    const { shape, size } = outputs[0];
    const modes = inputs.map((input) => modeOf(input, shape, size));
    const wide = modes.every((mode) => mode.kind !== STRIDED && mode.step % 4 === 0);
    const threads = wide ? Math.ceil(size / 4) : size;
    const values = [threads, ...params];
    let code = wide ? 1 : 0;
    for (const { kind, step, count } of modes) {
      code = code * MODES + kind;
      if (kind === ROW) values.push(wide ? step / 4 : step);
      if (kind === COLUMN) values.push(wide ? step / 4 : step, count);
    }
    if (modes.some((mode) => mode.kind === STRIDED)) pushStrides(values, inputs, modes, shape);
    let found = this.shaders.get(code);
    if (!found) this.shaders.set(code, (found = this.make(modes, wide)));
    return { shader: found, args: [...inputs, ...outputs], params: values, grid: grid1d(threads, WG) };
  }

  private make(modes: readonly Mode[], wide: boolean): Shader {
    const { name, reads, writes, params = {}, helpers = '' } = this.spec;
    const strided = modes.some((mode) => mode.kind === STRIDED);
    const bound = (type: string, vector: boolean) => (vector ? `vec4<${type}>` : type);
    return shader(`${name}.${modes.map((mode) => mode.kind).join('')}${wide ? 'v' : ''}`, () => ({
      reads: Object.fromEntries(this.readNames.map((r, k) => [`${r}_`, bound(reads[r], wide && modes[k].kind <= ROW)])),
      writes: Object.fromEntries(Object.entries(writes).map(([w, type]) => [`${w}_`, bound(type, wide)])),
      params: { threads: 'u32', ...params, ...this.indexParams(modes), ...(strided ? axes('size') : {}) },
      constants: { WG },
      code: [helpers, this.functions(), strided ? COORDINATES : '', FLAT_INDEX, this.main(modes, wide)].join('\n'),
    }));
  }

  private indexParams(modes: readonly Mode[]): Record<string, 'u32'> {
    const out: Record<string, 'u32'> = {};
    this.readNames.forEach((r, k) => {
      if (modes[k].kind === ROW || modes[k].kind === COLUMN) out[`${r}_step`] = 'u32';
      if (modes[k].kind === COLUMN) out[`${r}_count`] = 'u32';
    });
    this.readNames.forEach((r, k) => {
      if (modes[k].kind === STRIDED) Object.assign(out, axes(`${r}_stride`));
    });
    return out;
  }

  /** One function per output: its value for one element. */
  private functions(): string {
    const { reads, writes, values, update } = this.spec;
    const args = Object.entries({ ...reads, ...(update ? writes : {}) }).map(([r, type]) => `${r}: ${type}`);
    return Object.entries(writes)
      .map(([w, type]) => `fn value_${w}(i: u32, ${args.join(', ')}) -> ${type} { return ${values[w]}; }`)
      .join('\n');
  }

  private main(modes: readonly Mode[], wide: boolean): string {
    const { reads, writes, update } = this.spec;
    const loads = this.readNames.map((r, k) => `let ${r} = ${load(r, reads[r], modes[k].kind, wide)};`);
    if (update) loads.push(...Object.keys(writes).map((w) => `let ${w} = ${w}_[i];`));
    const names = [...this.readNames, ...(update ? Object.keys(writes) : [])];
    const call = (w: string, index: string, part: string) =>
      `value_${w}(${[index, ...names.map((r) => r + part)].join(', ')})`;
    const value = (w: string) =>
      wide
        ? `vec4(${['x', 'y', 'z', 'w'].map((part, k) => call(w, `4u * i + ${k}u`, `.${part}`)).join(', ')})`
        : call(w, 'i', '');
    const stores = Object.keys(writes).map((w) => `${w}_[i] = ${value(w)};`);
    const coordinates = modes.some((mode) => mode.kind === STRIDED) ? ['let at = coordinates(i);'] : [];
    return /* wgsl */ `
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let i = flat_index(group, groups, local, WG);
  if (i >= params.threads) { return; }
  ${[...coordinates, ...loads, ...stores].join('\n  ')}
}`;
  }
}

type Sized = Pick<GpuArg, 'shape' | 'size'>;

/** A tensor of any dtype as the 32-bit words of its buffer. */
export function asWords(arg: GpuArg): GpuArg {
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

function axes(name: string): Record<string, 'u32'> {
  return Object.fromEntries(Array.from({ length: MAX_RANK }, (_, k) => [`${name}${k}`, 'u32' as const]));
}

/** Appends the strides of the strided inputs, then the sizes, after merging dims that all inputs walk through alike. */
function pushStrides(values: number[], inputs: readonly GpuArg[], modes: readonly Mode[], target: readonly number[]) {
  const strided = inputs.filter((_, k) => modes[k].kind === STRIDED);
  const { sizes, strides } = mergeDims(
    target,
    strided.map((input) => broadcastStrides(input.shape, target)),
  );
  if (sizes.length > MAX_RANK) {
    throw new ShapeError(`${show(target)} broadcasts along more dimensions than ${MAX_RANK}; reshape or expand first`);
  }
  const pad = new Array<number>(MAX_RANK - sizes.length);
  for (const own of strides) values.push(...pad.fill(0), ...own);
  values.push(...pad.fill(1), ...sizes);
}

/** Drops dims of size 1 and merges neighbours that every set of strides walks through without a jump. */
export function mergeDims(
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

function load(name: string, type: string, kind: number, wide: boolean): string {
  const spread = (value: string) => (wide ? `vec4<${type}>(${value})` : value);
  switch (kind) {
    case SAME:
      return `${name}_[i]`;
    case ROW:
      return `${name}_[i % params.${name}_step]`;
    case COLUMN:
      return spread(`${name}_[(i / params.${name}_step) % params.${name}_count]`);
    case SCALAR:
      return spread(`${name}_[0]`);
    default: {
      const terms = Array.from({ length: MAX_RANK }, (_, k) => `at[${k}] * params.${name}_stride${k}`);
      return `${name}_[${terms.join(' + ')}]`;
    }
  }
}

/** Coordinates of element i in the merged dims. */
const COORDINATES = /* wgsl */ `
fn coordinates(i: u32) -> array<u32, ${MAX_RANK}> {
  var at: array<u32, ${MAX_RANK}>;
  var rest = i;
${Array.from({ length: MAX_RANK }, (_, k) => MAX_RANK - 1 - k)
  .map((k) => `  at[${k}] = rest % params.size${k}; rest /= params.size${k};`)
  .join('\n')}
  return at;
}
`;
