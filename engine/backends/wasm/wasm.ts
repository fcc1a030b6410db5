import { FreeBlocks, Heap } from './heap.ts';
import { type Kernels, loadKernels, type LoadOptions } from '../../../wasm/loader.ts';
import type { Recording } from '../../backend.ts';
import { byteLength, type DType, type HostArray, hostArrayType, hostItems } from '../../dtype.ts';
import { KernelError } from '../../errors.ts';
import type { Call } from '../../plan.ts';
import { type Extent, HostBackend, POISON_HALF } from '../host.ts';
import { type WasmCall, WasmRecorder } from './planner.ts';

/** Bytes of the WASM memory. */
interface Block {
  readonly ptr: number;
  readonly bytes: number;
  /** The blocks of the recording that it was taken for: what is freed goes back there. */
  readonly own: FreeBlocks | undefined;
}

export interface WasmBuffer extends Extent, Block {}

/** The calls of C kernels that an op comes to for operands of certain specs; null where its reference loops run. */
interface WasmPlan extends Call {
  readonly calls: readonly WasmCall[] | null;
  /** Bytes of each piece of scratch. */
  readonly scratch: readonly number[];
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
export class WasmBackend extends HostBackend<WasmBuffer, WasmPlan> {
  readonly kind = 'wasm';
  readonly description: string;
  private readonly heap: Heap;
  private readonly poison: boolean;
  private readonly recorder: WasmRecorder;
  /** Blocks of the recording that is being made. A replay finds every buffer where it was: none else gets them. */
  private own: FreeBlocks | undefined;

  private constructor(kernels: Kernels, options: WasmOptions) {
    super();
    this.heap = new Heap(kernels.memory, kernels.heapBase, options.maxBytes);
    this.poison = options.poison ?? false;
    this.recorder = new WasmRecorder(kernels.exports);
    this.description = `WebAssembly ${kernels.variant === 'relaxed' ? 'relaxed SIMD' : 'SIMD128'}, one thread`;
  }

  static async create(options: WasmOptions = {}): Promise<WasmBackend> {
    return new WasmBackend(await loadKernels(options), options);
  }

  alloc(size: number, dtype: DType): WasmBuffer {
    const { ptr, bytes, own } = this.take(byteLength(dtype, size));
    this.memory.allocated(bytes);
    this.memory.reserved = this.heap.memory.buffer.byteLength;
    return { ptr, bytes, own, size, dtype };
  }

  free(buffer: WasmBuffer): void {
    this.give(buffer);
    this.memory.freed(buffer.bytes);
  }

  plan(call: Call): WasmPlan {
    return { ...call, ...this.recorder.record(call) };
  }

  override record(): () => Recording {
    const own = (this.own = new FreeBlocks());
    const end = super.record();
    return () => {
      this.own = undefined;
      return { ...end(), dispose: () => this.heap.release(own) };
    };
  }

  protected run(plan: WasmPlan, buffers: readonly (WasmBuffer | undefined)[]): void {
    const { op, calls, scratch } = plan;
    if (!calls) return this.loop(plan, buffers);
    const places: (Block | undefined)[] = scratch.length > 0 ? [...buffers] : (buffers as []);
    try {
      for (const bytes of scratch) places.push(this.take(bytes));
      for (const { kernel, args, slots, given } of calls) {
        for (let i = 0; i < args.length; i++) given[i] = slots[i] < 0 ? args[i] : places[slots[i]]!.ptr + args[i];
        kernel.apply(undefined, given);
      }
      if (this.poison) this.checkGuards(op.name, places);
    } finally {
      for (let i = buffers.length; i < places.length; i++) this.give(places[i]!);
    }
  }

  protected override nameOf({ op, calls }: WasmPlan): string {
    return calls ? op.name : `${op.name} (fallback)`;
  }

  protected view({ ptr, size, dtype }: WasmBuffer): HostArray {
    return new (hostArrayType(dtype))(this.heap.memory.buffer as ArrayBuffer, ptr, hostItems(dtype, size));
  }

  private take(bytes: number): Block {
    const { own } = this;
    const words = Math.ceil(bytes / 2) + (this.poison ? 2 * GUARD : 0);
    const start = this.heap.alloc(2 * words, own);
    if (!this.poison) return { ptr: start, bytes, own };
    this.words(start, words).fill(POISON_HALF);
    return { ptr: start + 2 * GUARD, bytes, own };
  }

  private give({ ptr, own }: Block): void {
    this.heap.free(this.poison ? ptr - 2 * GUARD : ptr, own);
  }

  /** @throws KernelError when an op wrote beside one of its buffers */
  private checkGuards(op: string, places: readonly (Block | undefined)[]): void {
    const words = this.words(0, this.heap.memory.buffer.byteLength / 2);
    for (const place of places) {
      if (!place) continue;
      const { ptr, bytes } = place;
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
}
