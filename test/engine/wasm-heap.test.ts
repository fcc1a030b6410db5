import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ArgumentError, OutOfMemoryError } from '../../engine/errors.ts';
import { Heap } from '../../engine/backends/wasm/heap.ts';
import { throws } from '../support/expect.ts';

const MIB = 2 ** 20;
const fresh = (limit = 64 * MIB): Heap => new Heap(new WebAssembly.Memory({ initial: 1, maximum: 1024 }), 1000, limit);
const bytesAt = ({ memory }: Heap, pointer: number, length: number) => new Uint8Array(memory.buffer, pointer, length);

test('what is freed is used again, and neighbours merge', () => {
  const heap = fresh();
  const parts = [heap.alloc(MIB), heap.alloc(MIB), heap.alloc(MIB), heap.alloc(64)];
  const before = heap.memory.buffer.byteLength;
  for (const i of [0, 2, 1]) heap.free(parts[i]);
  assert.is(heap.alloc(3 * MIB), parts[0]);
  assert.is(heap.memory.buffer.byteLength, before);
});

test('random traffic: blocks are aligned, apart and counted, and everything comes back', () => {
  const heap = fresh();
  const live: [number, number][] = [];
  let seed = 7;
  const next = (n: number): number => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) % n;
  for (let step = 0; step < 4000; step++) {
    if (live.length > 0 && next(100) < 48) {
      const [[pointer, length]] = live.splice(next(live.length), 1);
      const view = bytesAt(heap, pointer, length);
      assert.ok(view.every((v) => v === view[0]), 'a block was written by another');
      heap.free(pointer);
    } else {
      const length = 1 + next(next(10) === 0 ? 200000 : 3000);
      const pointer = heap.alloc(length);
      assert.ok(pointer % 64 === 0 && pointer >= 1000, `a block at ${pointer}`);
      bytesAt(heap, pointer, length).fill(step & 255);
      live.push([pointer, length]);
    }
    assert.is(heap.liveBytes, live.reduce((sum, [, length]) => sum + Math.ceil(length / 64) * 64, 0));
  }
  for (const [pointer] of live) heap.free(pointer);
  assert.is(heap.liveBytes, 0);
  const whole = heap.memory.buffer.byteLength - 64 * 16;
  heap.alloc(whole);
  assert.is(heap.memory.buffer.byteLength, whole + 64 * 16, 'free memory is in one piece again');
});

test('past the limit it throws, and what was there stays usable', () => {
  const heap = fresh(4 * MIB);
  const a = heap.alloc(3 * MIB);
  throws(() => heap.alloc(2 * MIB), OutOfMemoryError, /2\.0 MiB needed.*limit 4\.0 MiB/);
  heap.free(a);
  heap.alloc(2 * MIB);
  const small = new Heap(new WebAssembly.Memory({ initial: 1, maximum: 2 }), 0);
  throws(() => small.alloc(MIB), OutOfMemoryError, '', 'the memory’s own maximum counts as well');
  small.alloc(100000);
});

test('a wrong free is refused', () => {
  const heap = fresh();
  const a = heap.alloc(4);
  heap.free(a);
  for (const wrong of [a, 12]) throws(() => heap.free(wrong), ArgumentError);
});

test.run();
