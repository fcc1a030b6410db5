import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { apply } from '../engine/apply.ts';
import { grid1d, type Launch, shader } from '../engine/backends/webgpu/launch.ts';
import { WebGpuBackend } from '../engine/backends/webgpu/webgpu.ts';
import { KernelError } from '../engine/errors.ts';
import { defineOp, type Op } from '../engine/op.ts';
import { scope } from '../engine/scope.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import { add } from '../ops/index.ts';
import { closeBackend, openGpu } from './support/backends.ts';

const backend = await openGpu();
const test = suite('errors of the GPU');

test.after(() => closeBackend(backend));

/** An op of one input and one output with a kernel of its own. */
function opWith(name: string, launch: (args: Launch['args']) => Launch) {
  return defineOp({
    name,
    inputs: ['x'],
    outputs: ['y'],
    shape: ({ x }, _: object) => ({ y: x }),
    reference: () => {},
    webgpu: ({ x }, { y }) => [launch([x, y])],
  });
}

const kernel = (name: string, body: string) =>
  shader(`test.${name}`, () => ({
    reads: { x: 'f32' },
    writes: { y: 'f32' },
    code: `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { ${body} }`,
  }));

const grid = grid1d(4, 64);
const good = kernel('good', 'if (id.x < arrayLength(&x)) { y[id.x] = x[id.x]; }');
const broken = opWith('broken', (args) => ({ shader: kernel('broken', 'y[0] = nothing;'), args, grid }));
const empty = opWith('empty', (args) => ({ shader: kernel('empty', 'var no: array<f32, 0>;'), args, grid }));
const huge = opWith('huge', (args) => ({ shader: good, args, grid: [70_000, 1, 1] }));
const few = opWith('few', ([x]) => ({ shader: good, args: [x], grid }));
const twice = opWith('twice', ([x]) => ({ shader: good, args: [x, x], grid }));

const input = () => fromData(backend, [1, 2, 3, 4], [4]);
const list = async (t: Tensor) => [...(await t.data())];

async function failure(promise: Promise<unknown>): Promise<Error> {
  const error = await promise.then(() => null, (e: Error) => e);
  if (!error) throw new Error('it should have failed');
  return error;
}

if (backend instanceof WebGpuBackend) {
  test('launches that a device would refuse are refused before, by name', async () => {
    const x = input();
    const refused = (op: Op<object, 'x', 'y'>, text: RegExp) =>
      assert.throws(() => apply(op, { x }, {}).y, (e: Error) => e instanceof KernelError && text.test(e.message));
    refused(huge, /^huge: needs 70000 × 1 × 1 workgroups/);
    refused(few, /^few: was given 1 tensors for the 2 of its kernel/);
    refused(twice, /^twice: would write to the memory of another of its tensors/);
    assert.equal(await list(x), [1, 2, 3, 4]);
  });

  for (const op of [broken, empty]) {
    test(`a shader that does not compile fails its op alone: ${op.name}`, async () => {
      const [before, x] = [add(input(), input()), input()];
      const y = apply(op, { x }, {}).y;
      const later = add(before, x);
      const error = await failure(y.data());
      assert.ok(error instanceof KernelError, String(error));
      assert.match(error.message, new RegExp(`^${op.name}: the GPU refused its kernel:[^]*test.${op.name}[^]*   1 `));
      // It was told of once; what has nothing to do with it is there, before and after, in the same step or not.
      assert.equal(await list(before), [2, 4, 6, 8]);
      assert.equal(await list(later), [3, 6, 9, 12]);
      assert.equal(await list(add(x, x)), [2, 4, 6, 8]);
      assert.is(await failure(y.data()), error, 'its result stays refused');
      assert.throws(() => add(y, x), (e: Error) => e === error, 'also as an input');
      const { live } = backend.memory;
      assert.throws(() => apply(op, { x }, {}).y, (e: Error) => e === error, 'and is not tried again');
      assert.is(backend.memory.live, live, 'nothing is left of the attempt');
    });
  }

  test('a shader that an op shares with a broken one stays good', async () => {
    const shared = kernel('shared', 'if (id.x < arrayLength(&x)) { y[id.x] = 2.0 * x[id.x]; }');
    const bad = kernel('beside', 'y[0] = nothing;');
    const op = (name: string, first: typeof shared) =>
      defineOp({
        name,
        inputs: ['x'],
        outputs: ['y'],
        shape: ({ x }, _: object) => ({ y: x }),
        reference: () => {},
        webgpu: ({ x }, { y }) => [first, shared].map((shader) => ({ shader, args: [x, y], grid })),
      });
    assert.match((await failure(apply(op('two', bad), { x: input() }, {}).y.data())).message, /^two: [^]*test.beside/);
    assert.equal(await list(apply(op('sound', good), { x: input() }, {}).y), [2, 4, 6, 8]);
  });

  test('a write past the end of a tensor is told when it is read', async () => {
    for (const [at, told] of [[3, false], [4, true], [63, true]] as const) {
      const op = opWith(`past ${at}`, (args) => ({ shader: kernel(`past ${at}`, `y[${at}] = x[0];`), args, grid }));
      const y = apply(op, { x: input() }, {}).y;
      if (told) assert.match((await failure(y.data())).message, /wrote past the end of a buffer of 4 f32/);
      else assert.is((await list(y))[at], 1);
    }
  });

  test('an error that nobody waited for is told by the next wait, once', async () => {
    const name = 'forgotten';
    const op = opWith(name, (args) => ({ shader: kernel(name, 'y[id.x] = 1u;'), args, grid }));
    const x = input();
    apply(op, { x }, {}).y.dispose();
    assert.match((await failure(backend.sync())).message, /^forgotten: /);
    await backend.sync();
    assert.equal(await list(x), [1, 2, 3, 4]);
  });

  test('memory that was given on is not taken for what was not computed', async () => {
    const op = opWith('gone', (args) => ({ shader: kernel('gone', 'y[id.x] = 1u;'), args, grid }));
    const y = scope(() => {
      apply(op, { x: input() }, {}).y.dispose();
      return add(input(), input());
    });
    assert.match((await failure(y.data())).message, /^gone: /);
    assert.equal(await list(y), [2, 4, 6, 8]);
  });
}

test.run();
