/// <reference lib="esnext.disposable" preserve="true" />
import { type Backend, elements, type Spec } from './backend.ts';
import { hostArrayFor } from './backends/host.ts';
import type { DType, HostArray } from './dtype.ts';
import { decoder, encode, expectSpec, expectStorable, hostArrayType, hostItems, isBlock, isFloat } from './dtype.ts';
import { ArgumentError, DisposedError, DTypeError, ShapeError } from './errors.ts';
import { noteFreed, noteMade } from './leaks.ts';
import { type Scope, track } from './scope.ts';
import type { Node } from './tape.ts';

(Symbol as { dispose?: symbol }).dispose ??= Symbol.for('Symbol.dispose');

/** A backend buffer with a count of the tensors and tape entries that hold it; freed when the last lets go. */
export class Storage {
  /** How many were made so far. */
  static made = 0;
  /** How many were made before it. */
  readonly serial = Storage.made++;
  private refs = 1;
  /** Counts the ops that wrote to it in place: backward refuses what changed since it was saved. */
  version = 0;
  constructor(
    readonly backend: Backend,
    readonly buffer: unknown,
  ) {}

  retain(): this {
    this.refs++;
    return this;
  }

  release(): void {
    if (--this.refs === 0) this.backend.free(this.buffer);
  }

  /** Whether more than one tensor or tape entry holds it. */
  get shared(): boolean {
    return this.refs > 1;
  }
}

let nextId = 1;

/**
 * An n-dimensional array on a backend: shape, dtype, storage and its place on the tape. It has no arithmetic; ops are
 * functions. Always contiguous and row-major. Freed by its scope, by `dispose()` or by `using`.
 */
export class Tensor implements Spec {
  readonly id = nextId++;
  readonly size: number;
  private wanted = false;
  /** After `backward`, the gradient of a leaf: of its shape and dtype, in a buffer that no other tensor shares. */
  grad: Tensor | null = null;
  /** Where it was computed, if that was recorded, and as which output. */
  node: Node | null = null;
  outputIndex = 0;
  /** For messages; parameters carry their state-dict name. */
  name: string | null = null;
  scope: Scope | null = null;
  private freed = false;

  constructor(
    readonly storage: Storage,
    readonly shape: readonly number[],
    readonly dtype: DType,
  ) {
    this.size = elements(shape);
    track(this);
    noteMade(this);
  }

  get backend(): Backend {
    return this.storage.backend;
  }

  /**
   * Set on leaves whose gradient is wanted, and on everything computed from them.
   * @throws DTypeError when set on integers or bool, which have no gradient
   */
  get requiresGrad(): boolean {
    return this.wanted;
  }

  set requiresGrad(wanted: boolean) {
    if (wanted && (!isFloat(this.dtype) || isBlock(this.dtype))) {
      throw new DTypeError(`requiresGrad: ${this} can have no gradient, f32, f16 and bf16 can; convert it with cast()`);
    }
    this.wanted = wanted;
  }

  get disposed(): boolean {
    return this.freed;
  }

  /** The backend's buffer. @throws DisposedError after the tensor was freed. */
  get buffer(): unknown {
    if (this.freed) {
      throw new DisposedError(`${this} was used after it was freed; return it from its scope or keep() it`);
    }
    return this.storage.buffer;
  }

  /**
   * Copies the elements to the host as they are stored, waiting for what computes them: f16 and bf16 come as raw
   * 16-bit patterns (`cast` to f32 first for numbers), bool as 0 and 1.
   */
  async data(): Promise<HostArray> {
    return this.backend.read(this.buffer);
  }

  /** The one element of a tensor of size 1 as a number, whatever the dtype. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError(`item: ${this} has ${this.size} elements, expected 1`);
    return decoder(this.dtype)((await this.data())[0]);
  }

  /** Another handle on the same elements, off the tape, owned by the innermost scope. */
  detach(): Tensor {
    return this.alias(this.shape);
  }

  /** Another handle on the same elements under another shape of the same size, off the tape. */
  alias(shape: readonly number[]): Tensor {
    void this.buffer;
    return new Tensor(this.storage.retain(), shape, this.dtype);
  }

  dispose(): void {
    if (this.freed) return;
    this.freed = true;
    noteFreed(this);
    this.scope = null;
    this.storage.release();
    this.grad?.dispose();
    this.grad = null;
    this.node?.release();
    this.node = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    return `tensor ${this.name ? `"${this.name}"` : `#${this.id}`} ${this.dtype}[${this.shape.join(', ')}]`;
  }
}

/**
 * An uninitialised tensor.
 * @throws ShapeError for sizes that are no whole numbers ≥ 0, DTypeError for an unknown dtype, OutOfMemoryError when
 * the backend has no room
 */
export function empty(backend: Backend, shape: readonly number[], dtype: DType = 'f32'): Tensor {
  expectSpec({ shape, dtype });
  return new Tensor(new Storage(backend, backend.alloc(elements(shape), dtype)), [...shape], dtype);
}

/**
 * A tensor holding a copy of `data`. Numbers become what `dtype` stores: floats are rounded, bool is "not 0", integers
 * are taken as they are. A Uint16Array for f16 or bf16 is taken as the raw patterns that `data()` gives.
 * @throws ShapeError when the length is not that of the shape, ArgumentError for what is no number and for one that an
 * integer dtype cannot hold (a fraction, NaN, one out of its bounds), whatever the kind of array
 */
export function fromData(backend: Backend, data: TensorData['data'], shape: readonly number[], dtype?: DType): Tensor {
  return fromDataTogether(backend, { fromData: { data, shape, dtype } }).fromData;
}

/** What `fromData` takes for a tensor. */
export interface TensorData {
  readonly data: HostArray | readonly number[];
  readonly shape: readonly number[];
  readonly dtype?: DType;
}

/**
 * `fromData` for several tensors in one transfer: what a step needs of its batch. `updateTogether` fills them again. On
 * WebGPU they are parts of one buffer, so that an op that writes to one of them in place cannot read another.
 * @throws what `fromData` throws
 */
export function fromDataTogether<K extends string>(
  backend: Backend,
  parts: Readonly<Record<K, TensorData>>,
): Record<K, Tensor> {
  const given = Object.entries<TensorData>(parts).map(([name, { data, shape, dtype = 'f32' }]) => {
    expectSpec({ shape, dtype });
    return { name, shape: [...shape], dtype, size: elements(shape), host: hostArray(name, data, { shape, dtype }) };
  });
  const buffers = backend.allocTogether?.(given);
  const tensors: Tensor[] = [];
  try {
    for (const [i, { shape, dtype, size }] of given.entries()) {
      tensors.push(new Tensor(new Storage(backend, buffers?.[i] ?? backend.alloc(size, dtype)), shape, dtype));
    }
    backend.write(tensors.map(({ buffer }) => buffer), given.map(({ host }) => host));
  } catch (error) {
    for (const tensor of tensors) tensor.dispose();
    throw error;
  }
  return Object.fromEntries(given.map(({ name }, i) => [name, tensors[i]])) as Record<K, Tensor>;
}

/**
 * Overwrites tensors with data from the host, in one transfer where `fromDataTogether` made them all.
 * @throws ShapeError, ArgumentError as `fromData`
 */
export function updateTogether<K extends string>(
  tensors: Readonly<Record<K, Tensor>>,
  data: Readonly<Record<K, TensorData['data']>>,
): void {
  const names = Object.keys(tensors) as K[];
  const hosts = names.map((name) => hostArray(name, data[name], tensors[name]));
  const buffers = names.map((name) => tensors[name].buffer);
  const { backend } = tensors[names[0]] ?? {};
  const apart = names.find((name) => tensors[name].backend !== backend);
  if (apart) throw new ArgumentError(`updateTogether: ${apart} is on another device than ${names[0]}`);
  for (const name of names) tensors[name].storage.version++;
  backend?.write(buffers, hosts);
}

/** Overwrites a tensor with data from the host. @throws as `updateTogether` */
export function update(tensor: Tensor, data: TensorData['data']): void {
  updateTogether({ update: tensor }, { update: data });
}

/** One number as a tensor of shape []. @throws ArgumentError where `fromData` does */
export function scalar(backend: Backend, value: number, dtype: DType = 'f32'): Tensor {
  return fromData(backend, [value], [], dtype);
}

/** `data` as a tensor of that spec stores it: the array itself where it already is that. */
function hostArray(name: string, data: TensorData['data'], { shape, dtype }: Spec): HostArray {
  const size = elements(shape);
  const stored = dtype !== 'bool' && data instanceof hostArrayType(dtype);
  const expected = stored ? hostItems(dtype, size) : size;
  if (data.length !== expected) {
    throw new ShapeError(`${name}: ${data.length} values for shape [${shape.join(', ')}], expected ${expected}`);
  }
  if (stored || (dtype === 'f32' && data instanceof Float64Array)) return data;
  for (let i = 0; i < data.length; i++) expectStorable(name, data[i], dtype);
  const out = hostArrayFor(dtype, size);
  encode(dtype, data, out);
  return out;
}
