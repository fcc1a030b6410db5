import { Heap } from './heap.ts';
import { type Kernels, loadKernels, type LoadOptions } from '../../../wasm/loader.ts';
import type { Arg, Backend, Call } from '../../backend.ts';
import { bytesOf, type DType, type HostArray } from '../../dtype.ts';
import type { HostArg, Op } from '../../op.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { MemoryCounter } from '../memory.ts';
import { hostArrayFor, hostArrayType } from '../reference/reference.ts';
import type { WasmArg } from './call.ts';

/** A block of the WASM memory. */
export interface WasmBuffer {
  readonly ptr: number;
  readonly bytes: number;
}

export { type KernelVariant, supportsVariant } from '../../../wasm/loader.ts';

export interface WasmOptions extends LoadOptions {
  /** Fill new buffers with NaN: shows kernels that read what nobody wrote. For tests. */
  readonly poison?: boolean;
}

/**
 * C kernels with SIMD on a memory of their own; ops without one run the reference loops on views of that memory.
 * Runs in Node and browsers alike, on the calling thread.
 */
export class WasmBackend implements Backend<WasmBuffer> {
  readonly kind = 'wasm';
  readonly description: string;
  readonly memory = new MemoryCounter();
  profiler: Profiler | null = null;
  private readonly heap: Heap;
  private readonly poison: boolean;
  private readonly scratchInUse: number[] = [];

  private constructor(
    private readonly kernels: Kernels,
    options: WasmOptions,
  ) {
    this.heap = new Heap(kernels.memory, kernels.heapBase, options.maxBytes);
    this.poison = options.poison ?? false;
    this.description = `WebAssembly ${kernels.variant === 'relaxed' ? 'relaxed SIMD' : 'SIMD128'}, one thread`;
  }

  static async create(options: WasmOptions = {}): Promise<WasmBackend> {
    return new WasmBackend(await loadKernels(options), options);
  }

  alloc(size: number, dtype: DType): WasmBuffer {
    const bytes = size * bytesOf(dtype);
    const ptr = this.heap.alloc(bytes);
    this.memory.allocated(bytes);
    this.memory.reserved = this.heap.memory.buffer.byteLength;
    if (this.poison && dtype === 'f32') this.heap.f32(ptr, size).fill(NaN);
    return { ptr, bytes };
  }

  free(buffer: WasmBuffer): void {
    this.heap.free(buffer.ptr);
    this.memory.freed(buffer.bytes);
  }

  write(buffer: WasmBuffer, data: HostArray): void {
    const bytes = data instanceof Float64Array ? Float32Array.from(data) : data;
    this.heap.u8(buffer.ptr, bytes.byteLength).set(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  }

  async read(buffer: WasmBuffer, size: number, dtype: DType): Promise<HostArray> {
    const out = hostArrayFor(dtype, size);
    out.set(this.view(buffer.ptr, size, dtype));
    return out;
  }

  run<A>(op: Op<A>, call: Call<A, WasmBuffer>): void {
    const start = this.profiler ? performance.now() : 0;
    const native = op.wasm?.({
      inputs: call.inputs.map(wasmArg),
      outputs: call.outputs.map(wasmArg),
      attrs: call.attrs,
      k: this.kernels.exports,
      scratch: this.scratch,
    });
    while (this.scratchInUse.length > 0) this.heap.free(this.scratchInUse.pop()!);
    if (!native) {
      op.reference({ inputs: call.inputs.map(this.host), outputs: call.outputs.map(this.host), attrs: call.attrs });
    }
    const name = native ? op.name : `${op.name} (fallback)`;
    this.profiler?.add(name, performance.now() - start, bytesMoved(call));
  }

  async sync(): Promise<void> {}

  dispose(): void {}

  private readonly scratch = (bytes: number): number => {
    const ptr = this.heap.alloc(bytes);
    this.scratchInUse.push(ptr);
    return ptr;
  };

  private readonly host = (arg: Arg<WasmBuffer>): HostArg => ({
    shape: arg.shape,
    dtype: arg.dtype,
    size: arg.size,
    data: this.view(arg.buffer.ptr, arg.size, arg.dtype),
  });

  private view(ptr: number, size: number, dtype: DType): HostArray {
    return new (hostArrayType(dtype))(this.heap.memory.buffer as ArrayBuffer, ptr, size);
  }
}

function wasmArg(arg: Arg<WasmBuffer>): WasmArg {
  return { shape: arg.shape, dtype: arg.dtype, size: arg.size, ptr: arg.buffer.ptr };
}
