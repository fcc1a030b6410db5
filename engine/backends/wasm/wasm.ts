import { FreeBlocks, Heap } from './heap.ts';
import { type Kernels, loadKernels, type LoadOptions } from '../../../wasm/loader.ts';
import type { Backend, Recording } from '../../backend.ts';
import { byteLength, type DType, type HostArray, hostArrayType, hostItems } from '../../dtype.ts';
import { KernelError } from '../../errors.ts';
import type { AnyOp } from '../../op.ts';
import { slotsOf } from '../../plan.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { allocEach, expectFits, expectReplayable, expectSame, type Extent, hostArrayFor, type HostPlan, POISON_HALF, runReference } from '../host.ts';
import { MemoryCounter } from '../memory.ts';
import { RecordedCalls } from '../recorded-calls.ts';
import { type WasmCall, WasmRecorder } from './planner.ts';

/** A block of the WASM memory. */
export interface WasmBuffer extends Extent {
  readonly ptr: number;
  readonly bytes: number;
}

/** The calls of C kernels that an op comes to for operands of certain specs; null where its reference loops run. */
interface WasmPlan extends HostPlan {
  readonly calls: readonly WasmCall[] | null;
  /** Bytes of each piece of scratch. */
  readonly scratch: readonly number[];
}

/**
 * The memory of a recording. What is taken while it is made stays its own, so that a replay finds every buffer where it
 * was: blocks that are freed are handed out again to the same recording only.
 */
interface OwnMemory {
  readonly used: Set<number>;
  readonly free: FreeBlocks;
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
export class WasmBackend implements Backend<WasmBuffer, WasmPlan> {
  readonly kind = 'wasm';
  readonly description: string;
  readonly memory = new MemoryCounter();
  profiler: Profiler | null = null;
  private readonly heap: Heap;
  private readonly poison: boolean;
  private readonly recorder: WasmRecorder;
  /** The recording that is being made. */
  private recording: { readonly calls: RecordedCalls; readonly memory: OwnMemory } | null = null;
  /** Memory of the recordings that there are. */
  private readonly recordings = new Set<OwnMemory>();

  private constructor(
    kernels: Kernels,
    options: WasmOptions,
  ) {
    this.heap = new Heap(kernels.memory, kernels.heapBase, options.maxBytes);
    this.poison = options.poison ?? false;
    this.recorder = new WasmRecorder(kernels.exports);
    this.description = `WebAssembly ${kernels.variant === 'relaxed' ? 'relaxed SIMD' : 'SIMD128'}, one thread`;
  }

  static async create(options: WasmOptions = {}): Promise<WasmBackend> {
    return new WasmBackend(await loadKernels(options), options);
  }

  alloc(size: number, dtype: DType): WasmBuffer {
    const bytes = byteLength(dtype, size);
    const ptr = this.take(bytes);
    this.memory.allocated(bytes);
    this.memory.reserved = this.heap.memory.buffer.byteLength;
    return { ptr, bytes, size, dtype };
  }

  free(buffer: WasmBuffer): void {
    this.give(buffer.ptr);
    this.memory.freed(buffer.bytes);
  }

  allocTogether(parts: readonly Extent[]): WasmBuffer[] {
    return allocEach(this, parts);
  }

  write(buffer: WasmBuffer, data: HostArray, start?: number): void {
    expectReplayable('a tensor is uploaded', this.recording !== null);
    expectFits(buffer, data, start);
    this.view(buffer.ptr, buffer.size, buffer.dtype).set(data, start);
  }

  writeAll(buffers: readonly WasmBuffer[], data: readonly HostArray[]): void {
    buffers.forEach((buffer, i) => this.write(buffer, data[i]));
  }

  async read(buffer: WasmBuffer, size: number, dtype: DType): Promise<HostArray> {
    expectReplayable('a tensor is read back', this.recording !== null);
    expectSame('read', buffer, { size, dtype });
    const out = hostArrayFor(dtype, size);
    out.set(this.view(buffer.ptr, size, dtype));
    return out;
  }

  copy(from: WasmBuffer, to: WasmBuffer): void {
    expectSame('copy', from, to);
    const run = () => this.view(to.ptr, to.size, to.dtype).set(this.view(from.ptr, from.size, from.dtype));
    run();
    this.recording?.calls.add('copy', from.bytes + to.bytes, run);
  }

  plan(op: AnyOp, inputs: HostPlan['inputs'], outputs: HostPlan['outputs'], attrs: unknown): WasmPlan {
    const slots = slotsOf(inputs, outputs);
    const { calls, scratch } = this.recorder.record(op, slots.inputs, slots.outputs, attrs);
    return { op, inputs, outputs, attrs, calls, scratch };
  }

  dispatch(plan: WasmPlan, buffers: readonly (WasmBuffer | undefined)[]): void {
    const start = this.profiler ? performance.now() : 0;
    const again = plan.calls ? this.call(plan.calls, plan, buffers) : this.loop(plan, buffers);
    if (!this.profiler && !this.recording) return;
    const name = plan.calls ? plan.op.name : `${plan.op.name} (fallback)`;
    const bytes = bytesMoved([...plan.inputs, ...plan.outputs]);
    this.profiler?.add(name, performance.now() - start, bytes);
    this.recording?.calls.add(name, bytes, again!);
  }

  record(): () => Recording {
    const { calls, memory } = (this.recording = {
      calls: new RecordedCalls(),
      memory: { used: new Set<number>(), free: new FreeBlocks() },
    });
    this.recordings.add(memory);
    return () => {
      this.recording = null;
      const dispose = () => {
        if (this.recordings.delete(memory)) this.heap.release(memory.free);
      };
      return { replay: () => calls.replay(this.profiler), dispose };
    };
  }

  async sync(): Promise<void> {}

  dispose(): void {}

  /** @returns while there is a recording, what makes the calls again */
  private call(
    calls: readonly WasmCall[],
    { op, scratch }: WasmPlan,
    buffers: readonly (WasmBuffer | undefined)[],
  ): (() => void) | null {
    const again: (() => void)[] | null = this.recording && [];
    const places: (Pick<WasmBuffer, 'ptr' | 'bytes'> | undefined)[] = scratch.length > 0 ? [...buffers] : (buffers as []);
    try {
      for (const bytes of scratch) places.push({ ptr: this.take(bytes), bytes });
      for (const { kernel, args, slots, given } of calls) {
        for (let i = 0; i < args.length; i++) given[i] = slots[i] < 0 ? args[i] : places[slots[i]]!.ptr + args[i];
        kernel.apply(undefined, given);
        again?.push(kernel.bind(undefined, ...given));
      }
      if (this.poison) this.checkGuards(op.name, places);
    } finally {
      for (let i = buffers.length; i < places.length; i++) this.give(places[i]!.ptr);
    }
    return again && (again.length === 1 ? again[0] : () => again.forEach((run) => run()));
  }

  private loop(plan: WasmPlan, buffers: readonly (WasmBuffer | undefined)[]): () => void {
    const run = () => runReference(plan, (i) => this.view(buffers[i]!.ptr, buffers[i]!.size, buffers[i]!.dtype));
    run();
    return run;
  }

  private take(bytes: number): number {
    const words = Math.ceil(bytes / 2) + (this.poison ? 2 * GUARD : 0);
    const start = this.heap.alloc(2 * words, this.recording?.memory.free);
    this.recording?.memory.used.add(start);
    if (!this.poison) return start;
    this.words(start, words).fill(POISON_HALF);
    return start + 2 * GUARD;
  }

  private give(ptr: number): void {
    const start = this.poison ? ptr - 2 * GUARD : ptr;
    for (const { used, free } of this.recordings) if (used.delete(start)) return this.heap.free(start, free);
    this.heap.free(start);
  }

  /** @throws KernelError when an op wrote beside one of its buffers */
  private checkGuards(op: string, places: readonly (Pick<WasmBuffer, 'ptr' | 'bytes'> | undefined)[]): void {
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

  private view(ptr: number, size: number, dtype: DType): HostArray {
    return new (hostArrayType(dtype))(this.heap.memory.buffer as ArrayBuffer, ptr, hostItems(dtype, size));
  }
}
