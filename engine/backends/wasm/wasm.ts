import { Heap } from './heap.ts';
import { type Kernels, loadKernels, type LoadOptions } from '../../../wasm/loader.ts';
import type { Backend, Recording } from '../../backend.ts';
import { byteLength, type DType, type HostArray, hostArrayType, hostItems } from '../../dtype.ts';
import { KernelError } from '../../errors.ts';
import type { AnyOp } from '../../op.ts';
import { slotsOf } from '../../plan.ts';
import { bytesMoved, type Profiler } from '../../profiler.ts';
import { allocEach, expectFits, expectReplayable, expectSame, type Extent, hostArrayFor, type HostPlan, POISON_HALF, runReference } from '../host.ts';
import { MemoryCounter } from '../memory.ts';
import { RecordedMemory } from '../recorded-memory.ts';
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
  /** What the recording that is being made has so far. */
  private recorded: (() => void)[] | null = null;
  private recording: RecordedMemory<number> | null = null;
  /** Memory of the recordings that there are. */
  private readonly recordings = new Set<RecordedMemory<number>>();

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
    expectReplayable('a tensor is uploaded', this.recorded !== null);
    expectFits(buffer, data, start);
    this.view(buffer.ptr, buffer.size, buffer.dtype).set(data, start);
  }

  writeAll(buffers: readonly WasmBuffer[], data: readonly HostArray[]): void {
    buffers.forEach((buffer, i) => this.write(buffer, data[i]));
  }

  async read(buffer: WasmBuffer, size: number, dtype: DType): Promise<HostArray> {
    expectReplayable('a tensor is read back', this.recorded !== null);
    expectSame('read', buffer, { size, dtype });
    const out = hostArrayFor(dtype, size);
    out.set(this.view(buffer.ptr, size, dtype));
    return out;
  }

  copy(from: WasmBuffer, to: WasmBuffer): void {
    expectSame('copy', from, to);
    this.run(() => this.view(to.ptr, to.size, to.dtype).set(this.view(from.ptr, from.size, from.dtype)));
  }

  plan(op: AnyOp, inputs: HostPlan['inputs'], outputs: HostPlan['outputs'], attrs: unknown): WasmPlan {
    const slots = slotsOf(inputs, outputs);
    const { calls, scratch } = this.recorder.record(op, slots.inputs, slots.outputs, attrs);
    return { op, inputs, outputs, attrs, calls, scratch };
  }

  dispatch(plan: WasmPlan, buffers: readonly (WasmBuffer | undefined)[]): void {
    const start = this.profiler ? performance.now() : 0;
    if (plan.calls) this.call(plan.calls, plan, buffers);
    else this.run(() => runReference(plan, (i) => this.view(buffers[i]!.ptr, buffers[i]!.size, buffers[i]!.dtype)));
    if (!this.profiler) return;
    const name = plan.calls ? plan.op.name : `${plan.op.name} (fallback)`;
    this.profiler.add(name, performance.now() - start, bytesMoved([...plan.inputs, ...plan.outputs]));
  }

  record(): () => Recording {
    const steps: (() => void)[] = (this.recorded = []);
    const memory = (this.recording = new RecordedMemory<number>());
    this.recordings.add(memory);
    return () => {
      this.recorded = null;
      this.recording = null;
      const dispose = () => {
        this.recordings.delete(memory);
        memory.dispose((ptr) => this.toHeap(ptr));
      };
      return { replay: () => steps.forEach((step) => step()), dispose };
    };
  }

  async sync(): Promise<void> {}

  dispose(): void {}

  private call(calls: readonly WasmCall[], { op, scratch }: WasmPlan, buffers: readonly (WasmBuffer | undefined)[]) {
    const places: (Pick<WasmBuffer, 'ptr' | 'bytes'> | undefined)[] = scratch.length > 0 ? [...buffers] : (buffers as []);
    try {
      for (const bytes of scratch) places.push({ ptr: this.take(bytes), bytes });
      for (const { kernel, args, slots, given } of calls) {
        for (let i = 0; i < args.length; i++) given[i] = slots[i] < 0 ? args[i] : places[slots[i]]!.ptr + args[i];
        kernel.apply(undefined, given);
        if (this.recorded) this.recorded.push(kernel.bind(undefined, ...given));
      }
      if (this.poison) this.checkGuards(op.name, places);
    } finally {
      for (let i = buffers.length; i < places.length; i++) this.give(places[i]!.ptr);
    }
  }

  private run(step: () => void): void {
    step();
    this.recorded?.push(step);
  }

  private take(bytes: number): number {
    return this.recording ? this.recording.take(bytes, () => this.fromHeap(bytes)) : this.fromHeap(bytes);
  }

  private fromHeap(bytes: number): number {
    if (!this.poison) return this.heap.alloc(bytes);
    const words = Math.ceil(bytes / 2) + 2 * GUARD;
    const start = this.heap.alloc(2 * words);
    this.words(start, words).fill(POISON_HALF);
    return start + 2 * GUARD;
  }

  private give(ptr: number): void {
    for (const recording of this.recordings) if (recording.give(ptr)) return;
    this.toHeap(ptr);
  }

  private toHeap(ptr: number): void {
    this.heap.free(this.poison ? ptr - 2 * GUARD : ptr);
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
