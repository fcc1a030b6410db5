import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { ArgumentError, DisposedError, OutOfMemoryError, ShapeError } from '../../engine/errors.ts';
import { leakReport } from '../../engine/leaks.ts';
import { Profiler } from '../../engine/profiler.ts';
import { keep, scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, scalar, type Tensor } from '../../engine/tensor.ts';
import { add, backward, cast, checkpoint, copy_, linear, mul, reshape, sum, zeros } from '../../ops/index.ts';
import { Parameters } from '../../models/nn/parameters.ts';
import { throws } from '../support/expect.ts';
import { freeOwned, own } from '../support/owned.ts';

const engine = suite('engine');
const backend = new ReferenceBackend();
const vector = (...values: number[]): Tensor => fromData(backend, values, [values.length]);
/** A vector that is freed after the test. */
const given = (...values: number[]): Tensor => own(vector(...values));
/** The same, and it wants a gradient. */
const leaf = (...values: number[]): Tensor => Object.assign(given(...values), { requiresGrad: true });
const list = async (tensor: Tensor | null) => [...(await tensor!.data())];

engine.after.each(() => {
  freeOwned();
  assert.is(backend.memory.live, 0, 'live bytes after the test');
});

engine('a scope frees what is neither returned nor kept', () => {
  let inner!: Tensor;
  const { kept, result } = scope(() => {
    inner = vector(1, 2);
    return { kept: keep(vector(3)), result: [add(inner, inner)] };
  });
  assert.equal([inner, own(kept), own(result[0])].map(({ disposed }) => disposed), [true, false, false]);
});

engine('a scope finds what it returns in arrays, Maps, Sets and objects without a prototype', () => {
  const { deep, set, map, none } = scope(() => ({
    deep: [[{ y: vector(1) }]],
    set: new Set([vector(2)]),
    map: new Map([['k', [vector(3)]]]),
    none: Object.assign(Object.create(null), { x: vector(4) }) as { x: Tensor },
  }));
  for (const tensor of [deep[0][0].y, ...set, map.get('k')![0], none.x]) assert.not.ok(own(tensor).disposed);
});

engine('a scope refuses an object of a class whose tensors it would free, and names class and field', () => {
  class Cache {
    constructor(
      readonly keys: Tensor | Tensor[] | Map<string, Tensor>,
      readonly backend_ = backend,
    ) {}
  }
  const hidden: (() => unknown)[] = [
    () => new Cache(vector(1)),
    () => ({ cache: new Cache([vector(1)]) }),
    () => [new Cache(new Map([['k', vector(1)]]))],
  ];
  const says = /a Cache whose keys holds tensor #\d+ f32\[1\].*keep\(\)/;
  for (const body of hidden) throws(() => scope(body), ArgumentError, says);
  const outer = given(1);
  const [kept] = scope(() => [new Cache(keep(vector(1))), new Cache([outer])]);
  for (const tensor of [kept.keys as Tensor, outer]) assert.not.ok(own(tensor).disposed);
});

engine('a scope frees also when its body throws, and refuses a promise', () => {
  throws(() => scope(() => { vector(1); throw new Error('x'); }), Error, /^x$/);
  throws(() => scope(async () => void vector(1)), ArgumentError, /await/);
});

engine('a freed tensor throws and is named; using frees at the end of the block', () => {
  const freed = () => {
    using x = vector(1);
    x.name = 'lm_head.weight';
    return [x];
  };
  throws(() => add(freed()[0], given(1)), DisposedError, /"lm_head.weight".*after it was freed/);
});

engine('gradients add up over uses and over calls of backward', async () => {
  const x = leaf(2, 3);
  scope(() => backward(sum(mul(x, x))));
  scope(() => backward(sum(add(x, x))));
  assert.equal(await list(x.grad), [6, 8]);
});

engine('noGrad records nothing, and a frozen tensor gets no gradient', () => {
  const [x, w] = [leaf(1), given(2)];
  scope(() => {
    assert.is(noGrad(() => mul(x, w)).requiresGrad, false);
    backward(sum(mul(x, w)));
  });
  assert.is(w.grad, null);
});

engine('an abandoned graph frees what it saved', () => {
  const x = leaf(1, 2, 3);
  const y = scope(() => mul(mul(x, x), x));
  x.dispose();
  assert.ok(backend.memory.live > 3 * 4);
  y.dispose();
  assert.is(backend.memory.live, 0);
});

engine('backward runs once through a graph, from a scalar', () => {
  const x = leaf(2, 3);
  scope(() => {
    const y = sum(mul(x, x));
    backward(y);
    throws(() => backward(y), Error, /backward ran through this graph before/);
    throws(() => backward(mul(x, x)), Error, /is no scalar/);
  });
});

engine('a checkpoint keeps only its inputs and gives the same gradients', async () => {
  const [x, w] = [leaf(1, 2, 3), leaf(4, 5, 6)];
  const body = ([t]: Tensor[]) => [mul(mul(t, w), mul(t, w))];
  const runs = [body, (inputs: Tensor[]) => checkpoint(body, inputs)];
  const grads: number[][] = [];
  for (const run of runs) {
    scope(() => backward(sum(run([x])[0])));
    grads.push([...(await list(x.grad)), ...(await list(w.grad))]);
    for (const t of [x, w]) {
      t.grad!.dispose();
      t.grad = null;
    }
  }
  assert.equal(grads[0], grads[1]);
});

engine('a graph may be deeper than the stack', async () => {
  const x = leaf(1);
  const chain = (): Tensor => {
    let y = add(x, x);
    for (let i = 1; i < 100_000; i++) {
      using before = y;
      y = add(before, x);
    }
    return y;
  };
  chain().dispose();
  const y = own(chain());
  scope(() => backward(y));
  assert.equal(await list(x.grad), [100_001]);
});

engine('backward refuses a tensor that changed since the op saved it, and names op and tensor', () => {
  const [x, y, z] = [leaf(1, 2), given(10, 10), leaf(3, 4)];
  x.name = 'layers.0.weight';
  scope(() => {
    const loss = sum(mul(x, z));
    copy_(x, y);
    throws(() => backward(loss), ArgumentError, /^mul: .*"layers\.0\.weight" f32\[2\].*changed in place/);
    const again = mul(x, z);
    copy_(y, z);
    assert.not.throws(() => backward(sum(again)), 'what was not saved may change');
  });
});

engine('an allocation that cannot be met says so on every backend', async () => {
  const wasm = await WasmBackend.create();
  for (const [b, ...sizes] of [[backend, 2 ** 40], [wasm, 2 ** 30, 2 ** 34, 2 ** 40]] as const) {
    for (const size of sizes) throws(() => zeros(b, [size]), OutOfMemoryError, '', `${b.kind} ${size}`);
    assert.is(b.memory.live, 0);
  }
});

engine('reshape is free and differentiable', async () => {
  const x = leaf(1, 2, 3, 4);
  scope(() => {
    const before = backend.memory.live;
    const y = reshape(x, [2, -1]);
    assert.equal([backend.memory.live, y.shape], [before, [2, 2]]);
    throws(() => reshape(x, [3, -1]), ShapeError);
    backward(sum(mul(y, y)));
  });
  assert.equal(await list(x.grad), [2, 4, 6, 8]);
});

engine('shape errors name op, argument and shapes; tensors of two backends do not mix', async () => {
  const wasm = await WasmBackend.create();
  const [x, w, two] = [given(1, 2, 3), own(fromData(backend, [1, 2], [1, 2])), given(1, 2)];
  const rows: [body: () => unknown, says: RegExp][] = [
    [() => linear(x, w), /linear: x \[3\] and weight \[1, 2\] do not fit/],
    [() => linear(two, w, null, { addend: two }), /linear: addend \[2\] does not fit the product, expected \[1\]/],
    [() => add(x, two), /add: .*\[3\].*\[2\]/],
    [() => fromData(backend, [1], [2]), /1 values for shape \[2\], expected 2/],
    [() => add(x, own(scalar(wasm, 1))), /wasm/],
  ];
  for (const [body, says] of rows) throws(body, Error, says);
});

engine('parameters are named by where they are, and taken once', () => {
  const p = new Parameters((_, shape) => own(fromData(backend, new Float32Array(shape[0]), shape)));
  p.at('layers').at(0).get('weight', [2]);
  throws(() => p.at('layers').at(0).get('weight', [2]), Error, /"layers.0.weight" is taken twice/);
  assert.equal([...p.all.keys()], ['layers.0.weight']);
});

engine('the leak report names count, bytes and place', async () => {
  const report = await leakReport(() => {
    scope(() => void vector(1));
    for (let i = 0; i < 3; i++) own(vector(1, 2));
  });
  assert.is(report.length, 1);
  assert.match(report[0], /^3 live, 24 bytes, such as tensor #\d+ f32\[2\], made at vector \(/);
});

engine('the leak report names op and caller, counts 16-bit floats as such, and what is shared once', async () => {
  const forgets = (x: Tensor) => own(mul(x, x));
  const report = await leakReport(() => {
    const x = own(vector(1, 2, 3, 4));
    forgets(x);
    for (const t of [x.detach(), reshape(x, [2, 2]), cast(x, 'f16')]) own(t);
  });
  const rows: [line: RegExp, count: number][] = [
    [/^1 live, 16 bytes, .*made by mul at .* < forgets \(/, 1],
    [/^1 live, 8 bytes, .*f16\[4\], made by cast at cast\d* \(/, 1],
    [/^1 live, 16 bytes, .*made at vector \(/, 1],
    [/^1 live, 0 bytes, /, 2],
    [/Tensor \(|empty|apply/, 0],
  ];
  for (const [line, count] of rows) assert.is(report.filter((one) => line.test(one)).length, count, `${line} in ${report}`);
});

engine('arrays that were given may change afterwards', async () => {
  const shape = [2, 3];
  const first = own(zeros(backend, shape));
  shape[0] = 4;
  const second = own(zeros(backend, shape));
  const third = own(fromData(backend, new Array(12).fill(1), shape));
  shape[0] = 5;
  assert.equal([first.shape, second.shape, third.shape, (await list(second)).length], [[2, 3], [4, 3], [4, 3], 12]);
});

engine('the profiler counts calls and bytes', () => {
  backend.profiler = new Profiler();
  scope(() => add(add(vector(1, 2), vector(3, 4)), vector(5, 6)) && null);
  const { calls, bytes } = backend.profiler.rows().find((r) => r.name === 'add')!;
  assert.equal([calls, bytes], [2, 2 * 3 * 8]);
  backend.profiler = null;
});

engine.run();
