import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BufferPool, sizeClass } from '../../engine/backends/webgpu/buffers.ts';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import { DeviceError, OutOfMemoryError } from '../../engine/errors.ts';
import { Profiler } from '../../engine/profiler.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { add, cat } from '../../ops/index.ts';
import { closeBackend, openGpu } from '../support/backends.ts';
import { throws } from '../support/expect.ts';

const MIB = 2 ** 20;

/** A device of so many bytes that makes and destroys buffers and nothing else. */
class FakeDevice {
  held = 0;
  made = 0;
  constructor(
    readonly bytes = Infinity,
    readonly refuse = () => {},
  ) {}

  createBuffer({ size }: GPUBufferDescriptor): GPUBuffer {
    if (this.held + size > this.bytes) {
      this.refuse();
      return {} as GPUBuffer;
    }
    this.held += size;
    this.made++;
    return { destroy: () => void (this.held -= size) } as GPUBuffer;
  }
}

/** A pool that nothing presses to give memory back. */
const poolOf = (device: FakeDevice, limit = 4096 * MIB) => new BufferPool(device, limit, () => {});

const pools = suite('WebGPU buffer pool');

pools('size classes are few and waste little', () => {
  const classes = new Set<number>();
  for (let bytes = 4; bytes < 64 * MIB; bytes = Math.ceil(bytes * 1.001 + 4)) {
    const size = sizeClass(bytes);
    assert.ok(size >= bytes && (size <= bytes * 1.25 || size <= bytes + 256), `${bytes} takes ${size}`);
    classes.add(size);
  }
  assert.ok(classes.size < 100, `${classes.size} classes`);
});

pools('a cache that grows by a position each time stays within a small multiple of what is live', () => {
  const device = new FakeDevice();
  const pool = poolOf(device);
  let caches = Array.from({ length: 64 }, () => pool.take(4096));
  for (let n = 2; n <= 1200; n++) {
    caches = caches.map((old) => {
      const grown = pool.take(4096 * n);
      pool.give(old);
      return grown;
    });
    pool.trim();
  }
  const { live, reserved } = pool.memory;
  assert.equal([live, reserved], [64 * 1200 * 4096, device.held]);
  assert.ok(reserved < 3.5 * live, `${reserved} held for ${live} live`);
  const small = poolOf(new FakeDevice());
  for (let n = 1, old = small.take(4); n <= 1200; n++) {
    const grown = small.take(8192 * n);
    small.give(old);
    old = grown;
    small.trim();
  }
  assert.ok(small.memory.reserved < 48 * MIB, `${small.memory.reserved} held`);
});

pools('a step that repeats gets the same buffers, and none is destroyed', () => {
  const device = new FakeDevice();
  const pool = poolOf(device);
  const step = () => {
    const taken = Array.from({ length: 200 }, (_, i) => pool.take((i + 1) * 20_000));
    for (const buffer of taken) pool.give(buffer);
    pool.trim();
    return taken.map((buffer) => buffer.id).join();
  };
  const first = step();
  for (let i = 0; i < 20; i++) assert.is(step(), first);
  assert.equal([device.made, device.held], [200, pool.memory.reserved]);
});

pools('what lies idle longest goes first, when a peak is long past', () => {
  const device = new FakeDevice();
  const pool = poolOf(device);
  const buffers = [50, 60, 70].map((mib) => pool.take(mib * MIB));
  const { held } = device;
  for (const buffer of [buffers[1], buffers[0], buffers[2]]) pool.give(buffer);
  pool.trim();
  assert.is(device.held, held);
  for (let i = 0; i < 1000 && device.held === held; i++) pool.trim();
  assert.is(held - device.held, buffers[1].capacity);
});

pools('idle buffers make room when memory runs out; where they do not suffice the error says so', () => {
  let pool!: BufferPool;
  const device = new FakeDevice(100 * MIB, () => assert.is(pool.outOfMemory(), null));
  let submits = 0;
  pool = new BufferPool(device, 4096 * MIB, () => submits++);
  pool.give(pool.take(60 * MIB));
  const large = pool.take(96 * MIB);
  assert.equal([submits, device.held], [1, 96 * MIB]);
  throws(() => pool.take(8 * MIB), OutOfMemoryError, /no room for 8388608 bytes with 100663296 bytes in use/);
  pool.give(large);
  assert.is(pool.memory.live, 0);
  assert.is(pool.take(8 * MIB).capacity, 8 * MIB);
  assert.instance(pool.outOfMemory(), OutOfMemoryError, 'not while nothing is made');
  const bound = poolOf(new FakeDevice(), 100 * MIB);
  assert.is(bound.take(99 * MIB).capacity, 100 * MIB);
  throws(() => bound.take(101 * MIB), OutOfMemoryError);
});

const gpu = suite('WebGPU memory and profile');
const backend = await openGpu();

if (backend instanceof WebGpuBackend) {
  gpu('growing by cat destroys buffers that no later command names', async () => {
    using row = fromData(backend, Float32Array.from({ length: 16384 }, (_, i) => i), [1, 16384]);
    let all: Tensor = cat([row], 0);
    let most = 0;
    for (let n = 2; n <= 120; n++) {
      using before = all;
      all = cat([before, row], 0);
      if (n % 8 === 0) await backend.sync();
      most = Math.max(most, backend.memory.reserved);
    }
    const data = await all.data();
    assert.ok(data.every((v, i) => v === i % 16384));
    assert.ok(most < 48 * MIB, `${most} held for a peak of ${backend.memory.peak}`);
    all.dispose();
  });

  gpu('reading a tensor brings the profile up to date, and waiting while another reads does', async () => {
    for (const wait of [(y: Tensor) => y.data(), (y: Tensor) => (void y.data(), backend.sync())]) {
      backend.profiler = new Profiler();
      using y = scope(() => add(fromData(backend, [1, 2], [2]), fromData(backend, [3, 4], [2])));
      await wait(y);
      const row = backend.profiler.rows().find(({ name }) => name === 'add');
      assert.ok(row && row.calls === 1 && row.bytes === 24 && row.ms > 0, JSON.stringify(backend.profiler.rows()));
      backend.profiler = null;
    }
  });

  gpu('an error that is dealt with is not printed among the results', async () => {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [fileURLToPath(import.meta.url)], {
      env: { ...process.env, MATVLM_TEST_CHILD: 'error' },
    });
    assert.is(stdout, 'results\n');
    assert.match(stderr, 'Buffer usages must not be 0');
  });

  gpu('a profiler on a device without timestamps is refused', async () => {
    const made = () => ({});
    const device = {
      ...{ features: new Set(), limits: {}, lost: new Promise(() => {}), destroy: made },
      ...{ createBuffer: made, createBindGroupLayout: made },
    };
    const adapter = { features: device.features, limits: {}, info: {}, requestDevice: async () => device };
    const own = await WebGpuBackend.create({ requestAdapter: async () => adapter } as unknown as GPU);
    throws(() => (own.profiler = new Profiler()), DeviceError, /timestamp-query/);
    own.profiler = null;
  });
}

gpu.after(() => closeBackend(backend));

/** What the child process does: meet an error of the device's, as a shortage that the pool recovers from is one. */
async function child(): Promise<void> {
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    GPUDevice.prototype.createBuffer = createBuffer;
    return createBuffer.call(this, { ...descriptor, usage: 0 });
  };
  try {
    await fromData(backend, [1], [1]).data();
  } catch (error) {
    process.stderr.write((error as Error).message);
  }
  process.stdout.write('results\n', () => process.exit(0));
}

if (process.env.MATVLM_TEST_CHILD) await child();
else for (const tests of [pools, gpu]) tests.run();
