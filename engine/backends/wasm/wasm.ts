import { Heap } from './heap.ts';
import { type Kernels, loadKernels, type LoadOptions } from '../../../wasm/loader.ts';
import type { Arg, Backend, Call } from '../../backend.ts';
import { bytesOf, type DType, type HostArray } from '../../dtype.ts';
import { KernelError } from '../../errors.ts';
import type { HostArg, Op } from '../../op.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { expectAll, expectSame, type Extent, hostArrayFor, hostArrayType, POISON_HALF } from '../host.ts';
import { MemoryCounter } from '../memory.ts';
import type { WasmArg } from './call.ts';

/** A block of the WASM memory. */
export interface WasmBuffer extends Extent {
  readonly ptr: number;
  readonly bytes: number;
}

/** 16-bit words of poison on either side of a buffer, where there is any. */
const GUARD = 32;

export { type KernelVariant, supportsVariant } from '../../../wasm/loader.ts';

export interface WasmOptions extends LoadOptions {
  /**
   * Fill new buffers, and a band on either side of them, with NaN, and look at the bands after each op: shows kernels
   * that read what nobody wrote, and those that write past an end. For tests.
   */
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
  private readonly scratchInUse: Pick<WasmBuffer, 'ptr' | 'bytes'>[] = [];

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
    const ptr = this.take(bytes);
    this.memory.allocated(bytes);
    this.memory.reserved = this.heap.memory.buffer.byteLength;
    return { ptr, bytes, size, dtype };
  }

  free(buffer: WasmBuffer): void {
    this.give(buffer.ptr);
    this.memory.freed(buffer.bytes);
  }

  write(buffer: WasmBuffer, data: HostArray): void {
    expectAll(buffer, data);
    this.view(buffer.ptr, buffer.size, buffer.dtype).set(data);
  }

  async read(buffer: WasmBuffer, size: number, dtype: DType): Promise<HostArray> {
    expectSame('read', buffer, { size, dtype });
    const out = hostArrayFor(dtype, size);
    out.set(this.view(buffer.ptr, size, dtype));
    return out;
  }

  copy(from: WasmBuffer, to: WasmBuffer): void {
    expectSame('copy', from, to);
    this.view(to.ptr, to.size, to.dtype).set(this.view(from.ptr, from.size, from.dtype));
  }

  run<A>(op: Op<A>, call: Call<A, WasmBuffer>): void {
    const start = this.profiler ? performance.now() : 0;
    const native = this.runNative(op, call);
    if (!native) {
      op.reference({ inputs: call.inputs.map(this.host), outputs: call.outputs.map(this.host), attrs: call.attrs });
    }
    const name = native ? op.name : `${op.name} (fallback)`;
    this.profiler?.add(name, performance.now() - start, bytesMoved(call));
  }

  async sync(): Promise<void> {}

  dispose(): void {}

  private runNative<A>(op: Op<A>, { inputs, outputs, attrs }: Call<A, WasmBuffer>): boolean {
    const { scratch, kernels } = this;
    try {
      const [ins, outs] = [inputs.map(wasmArg), outputs.map(wasmArg)];
      // Spelled out: spreading an object takes V8 as long as all else of a small op.
      const native = op.wasm?.({ inputs: ins, outputs: outs, attrs, k: kernels.exports, scratch }) ?? false;
      if (this.poison) this.checkGuards(op.name, [...inputs, ...outputs].map((arg) => arg.buffer));
      return native;
    } finally {
      while (this.scratchInUse.length > 0) this.give(this.scratchInUse.pop()!.ptr);
    }
  }

  private readonly scratch = (bytes: number): number => {
    if (bytes === 0) return 0;
    const ptr = this.take(bytes);
    this.scratchInUse.push({ ptr, bytes });
    return ptr;
  };

  private take(bytes: number): number {
    if (!this.poison) return this.heap.alloc(bytes);
    const words = Math.ceil(bytes / 2) + 2 * GUARD;
    const start = this.heap.alloc(2 * words);
    this.words(start, words).fill(POISON_HALF);
    return start + 2 * GUARD;
  }

  private give(ptr: number): void {
    this.heap.free(this.poison ? ptr - 2 * GUARD : ptr);
  }

  /** @throws KernelError when an op wrote beside one of its buffers */
  private checkGuards(op: string, buffers: readonly Pick<WasmBuffer, 'ptr' | 'bytes'>[]): void {
    const words = this.words(0, this.heap.memory.buffer.byteLength / 2);
    for (const { ptr, bytes } of [...buffers, ...this.scratchInUse]) {
      for (const start of [ptr - 2 * GUARD, ptr + 2 * Math.ceil(bytes / 2)]) {
        const end = start / 2 + GUARD;
        let at = start / 2;
        while (at < end && words[at] === POISON_HALF) at++;
        if (at === end) continue;
        throw new KernelError(`${op}: wrote ${start < ptr ? 'before' : 'past the end of'} a buffer of ${bytes} bytes`);
      }
    }
  }

  private words(start: number, count: number): Uint16Array {
    return new Uint16Array(this.heap.memory.buffer, start, count);
  }

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
