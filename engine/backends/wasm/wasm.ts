import { FreeBlocks, Heap } from './heap.ts';
import { type Kernels, loadKernels, type LoadOptions } from '../../../wasm/loader.ts';
import type { Recording } from '../../backend.ts';
import { byteLength, type DType, type HostArray, hostArrayType, hostItems } from '../../dtype.ts';
import { KernelError } from '../../errors.ts';
import type { Call } from '../../plan.ts';
import { type Extent, HostBackend, type HostPlan, POISON_HALF, type Poisoning } from '../host.ts';
import { type WasmCall, WasmRecorder } from './planner.ts';

/** Bytes of the WASM memory. */
interface WasmBuffer extends Extent {
  readonly ptr: number;
  readonly bytes: number;
  /** The blocks of the recording that it was taken for: what is freed goes back there. */
  readonly own: FreeBlocks | undefined;
}

/** The calls of C kernels that an op comes to for operands of certain specs; null where its reference loops run. */
interface WasmPlan extends HostPlan {
  readonly calls: readonly WasmCall[] | null;
  /** Bytes of each piece of scratch. */
  readonly scratch: readonly number[];
}

/** 16-bit words of poison on either side of a buffer, where there is any. */
const GUARD = 32;

export { type KernelVariant, supportsVariant } from '../../../wasm/loader.ts';

export interface WasmOptions extends LoadOptions, Poisoning {}

/** C kernels with SIMD on a memory of their own, in one thread; ops without one run the reference loops on it. */
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
    const buffer = this.take(size, dtype);
    this.memory.allocated(buffer.bytes);
    this.memory.reserved = this.heap.memory.buffer.byteLength;
    return buffer;
  }

  free(buffer: WasmBuffer): void {
    this.give(buffer);
    this.memory.freed(buffer.bytes);
  }

  plan(call: Call): WasmPlan {
    const { calls, scratch } = this.recorder.record(call);
    return { ...call, calls, scratch, name: calls ? call.op.name : `${call.op.name} (fallback)` };
  }

  override record(): () => Recording {
    const own = (this.own = new FreeBlocks());
    const end = super.record();
    return () => {
      this.own = undefined;
      return { ...end(), dispose: () => this.heap.release(own) };
    };
  }

  override dispatch(plan: WasmPlan, operands: readonly (WasmBuffer | undefined)[]): void {
    const buffers = plan.scratch.length > 0 ? [...operands] : (operands as (WasmBuffer | undefined)[]);
    try {
      for (const bytes of plan.scratch) buffers.push(this.take(Math.ceil(bytes / 4), 'u32'));
      super.dispatch(plan, buffers);
      // Not in replays, where blocks of several tensors lie over one another.
      if (this.poison) this.checkGuards(plan.op.name, buffers);
    } finally {
      for (let i = operands.length; i < buffers.length; i++) this.give(buffers[i]!);
    }
  }

  protected override run(plan: WasmPlan, buffers: readonly (WasmBuffer | undefined)[]): void {
    if (!plan.calls) return super.run(plan, buffers);
    for (const { kernel, args, slots, given } of plan.calls) {
      for (let i = 0; i < args.length; i++) given[i] = slots[i] < 0 ? args[i] : buffers[slots[i]]!.ptr + args[i];
      kernel(...given);
    }
  }

  protected view({ ptr, size, dtype }: WasmBuffer): HostArray {
    return new (hostArrayType(dtype))(this.heap.memory.buffer as ArrayBuffer, ptr, hostItems(dtype, size));
  }

  private take(size: number, dtype: DType): WasmBuffer {
    const { own, poison } = this;
    const bytes = byteLength(dtype, size);
    const words = Math.ceil(bytes / 2) + (poison ? 2 * GUARD : 0);
    const start = this.heap.alloc(2 * words, own);
    if (poison) this.words(start, words).fill(POISON_HALF);
    return { ptr: poison ? start + 2 * GUARD : start, bytes, own, size, dtype };
  }

  private give({ ptr, own }: WasmBuffer): void {
    this.heap.free(this.poison ? ptr - 2 * GUARD : ptr, own);
  }

  /** @throws KernelError when an op wrote beside one of its buffers */
  private checkGuards(op: string, buffers: readonly (WasmBuffer | undefined)[]): void {
    for (const buffer of buffers) {
      if (!buffer) continue;
      const { ptr, bytes } = buffer;
      for (const start of [ptr - 2 * GUARD, ptr + 2 * Math.ceil(bytes / 2)]) {
        if (this.words(start, GUARD).every((word) => word === POISON_HALF)) continue;
        throw new KernelError(`${op}: wrote ${start < ptr ? 'before' : 'past the end of'} a buffer of ${bytes} bytes`);
      }
    }
  }

  private words(start: number, count: number): Uint16Array {
    return new Uint16Array(this.heap.memory.buffer, start, count);
  }
}
