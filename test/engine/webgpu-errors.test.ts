import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { apply } from '../../engine/apply.ts';
import { grid1d, type Launch, shader } from '../../engine/backends/webgpu/launch.ts';
import { WebGpuBackend } from '../../engine/backends/webgpu/webgpu.ts';
import { KernelError } from '../../engine/errors.ts';
import { defineOp, type Op, spec } from '../../engine/op.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { launchElements, launchKernel } from '../../ops/common/launch-kernel.ts';
import { add } from '../../ops/index.ts';
import { closeBackend, openGpu } from '../support/backends.ts';
import { rejects, throws } from '../support/expect.ts';

const backend = await openGpu();
const test = suite('errors of the GPU');

test.after(() => closeBackend(backend));

/** An op of one input and one output with kernels of its own. */
function opWith(name: string, ...launches: ((args: Launch['args']) => Launch)[]) {
  return defineOp({
    name,
    inputs: ['x'],
    outputs: ['y'],
    shape: ({ x }, _: object) => ({ y: x }),
    reference: () => {},
    webgpu: ({ x }, { y }) => launches.map((launch) => launch([x, y])),
  });
}

/** The same with one kernel of this body for four elements. */
const opOf = (name: string, body: string) => opWith(name, (args) => ({ shader: kernel(name, body), args, grid }));
const resultOf = (op: Op<object, 'x', 'y'>, x = input()) => apply(op, { x }, {}).y;

const kernel = (name: string, body: string) =>
  shader(`test.${name}`, () => ({
    reads: { x: 'f32' },
    writes: { y: 'f32' },
    code: `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { ${body} }`,
  }));

const grid = grid1d(4, 64);
const good = kernel('good', 'if (id.x < 4u) { y[id.x] = x[id.x]; }');
const [broken, empty] = [opOf('broken', 'y[0] = nothing;'), opOf('empty', 'var no: array<f32, 0>;')];

const input = () => fromData(backend, [1, 2, 3, 4], [4]);
const list = async (t: Tensor) => [...(await t.data())];

if (backend instanceof WebGpuBackend) {
  test('workgroups that a grid has beyond those asked for do nothing', async () => {
    const groups = 65_537;
    const op = defineOp({
      name: 'counted',
      inputs: ['x'],
      outputs: ['y'],
      shape: (_, __: object) => ({ y: spec([groups + 3]) }),
      reference: () => {},
      webgpu: ({ x }, { y }, _, device) => [
        launchElements(device, y.size, { key: 'test.zero', reads: { x }, writes: { y }, body: () => 'store_y(i, 0.0);' }),
        launchKernel(device, {
          ...{ key: 'test.counted', reads: { x }, writes: { y }, workgroup: 1, groups },
          code: () => 'fn kernel(group: u32, local: u32) { store_y(group, 1.0); }',
        }),
      ],
    });
    assert.equal((await list(resultOf(op))).slice(-4), [1, 0, 0, 0]);
  });

  test('launches that a device would refuse are refused before, by name', async () => {
    const x = input();
    const rows: [says: RegExp, launch: (args: Launch['args']) => Launch][] = [
      [/^odd: needs 70000 × 1 × 1 workgroups/, (args) => ({ shader: good, args, grid: [70_000, 1, 1] })],
      [/^odd: was given 1 tensors for the 2 of its kernel/, ([x]) => ({ shader: good, args: [x], grid })],
      [/^odd: would write to the memory of another of its tensors/, ([x]) => ({ shader: good, args: [x, x], grid })],
    ];
    for (const [says, launch] of rows) throws(() => resultOf(opWith('odd', launch), x), KernelError, says);
    assert.equal(await list(x), [1, 2, 3, 4]);
  });

  for (const op of [broken, empty]) {
    test(`a shader that does not compile fails its op alone: ${op.name}`, async () => {
      const [before, x] = [add(input(), input()), input()];
      const y = resultOf(op, x);
      const later = add(before, x);
      const says = new RegExp(`^${op.name}: the GPU refused its kernel:[^]*test.${op.name}[^]*   1 `);
      const error = await rejects(y.data(), KernelError, says);
      // It was told of once; what has nothing to do with it is there, before and after, in the same step or not.
      assert.equal(await list(before), [2, 4, 6, 8]);
      assert.equal(await list(later), [3, 6, 9, 12]);
      assert.equal(await list(add(x, x)), [2, 4, 6, 8]);
      assert.is(await rejects(y.data(), KernelError), error, 'its result stays refused');
      assert.is(throws(() => add(y, x), KernelError), error, 'also as an input');
      const { live } = backend.memory;
      assert.is(throws(() => resultOf(op, x), KernelError), error, 'and is not tried again');
      assert.is(backend.memory.live, live, 'nothing is left of the attempt');
    });
  }

  test('a shader that an op shares with a broken one stays good', async () => {
    const shared = kernel('shared', 'if (id.x < 4u) { y[id.x] = 2.0 * x[id.x]; }');
    const bad = kernel('beside', 'y[0] = nothing;');
    const op = (name: string, first: typeof shared) =>
      opWith(name, ...[first, shared].map((shader) => (args: Launch['args']) => ({ shader, args, grid })));
    await rejects(resultOf(op('two', bad)).data(), KernelError, /^two: [^]*test.beside/);
    assert.equal(await list(resultOf(op('sound', good))), [2, 4, 6, 8]);
  });

  test('a write past the end of a tensor is told when it is read', async () => {
    for (const [at, told] of [[3, false], [4, true], [63, true]] as const) {
      const y = resultOf(opOf(`past ${at}`, `y[${at}] = x[0];`));
      if (told) await rejects(y.data(), Error, /wrote past the end of a buffer of 4 f32/);
      else assert.is((await list(y))[at], 1);
    }
  });

  test('an error that nobody waited for is told by the next wait, once', async () => {
    const x = input();
    resultOf(opOf('forgotten', 'y[id.x] = 1u;'), x).dispose();
    await rejects(backend.sync(), Error, /^forgotten: /);
    await backend.sync();
    assert.equal(await list(x), [1, 2, 3, 4]);
  });

  test('memory that was given on is not taken for what was not computed', async () => {
    const y = scope(() => {
      resultOf(opOf('gone', 'y[id.x] = 1u;')).dispose();
      return add(input(), input());
    });
    await rejects(y.data(), Error, /^gone: /);
    assert.equal(await list(y), [2, 4, 6, 8]);
  });
}

test.run();
