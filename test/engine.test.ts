import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../engine/backends/reference/reference.ts';
import { WasmBackend } from '../engine/backends/wasm/wasm.ts';
import { ArgumentError, DisposedError, OutOfMemoryError, ShapeError } from '../engine/errors.ts';
import { leakReport } from '../engine/leaks.ts';
import { Profiler } from '../engine/profiler.ts';
import { keep, scope } from '../engine/scope.ts';
import { noGrad } from '../engine/tape.ts';
import { fromData, scalar, type Tensor } from '../engine/tensor.ts';
import { add, backward, cast, checkpoint, copy_, linear, mul, reshape, sum, zeros } from '../ops/index.ts';
import { Parameters } from '../models/nn/parameters.ts';

const engine = suite('engine');
const backend = new ReferenceBackend();
const vector = (...values: number[]): Tensor => fromData(backend, values, [values.length]);

engine.after.each(() => assert.is(backend.memory.live, 0, 'live bytes after the test'));

engine('a scope frees what is neither returned nor kept', () => {
  let inner!: Tensor;
  const { kept, result } = scope(() => {
    inner = vector(1, 2);
    return { kept: keep(vector(3)), result: [add(inner, inner)] };
  });
  assert.ok(inner.disposed);
  assert.not.ok(result[0].disposed);
  kept.dispose();
  result[0].dispose();
});

engine('a scope finds what it returns in arrays, Maps, Sets and objects without a prototype', () => {
  const bare = Object.assign(Object.create(null), { x: vector(1) }) as { x: Tensor };
  bare.x.dispose();
  const { deep, set, map, none } = scope(() => ({
    deep: [[{ y: vector(1) }]],
    set: new Set([vector(2)]),
    map: new Map([['k', [vector(3)]]]),
    none: Object.assign(Object.create(null), { x: vector(4) }) as { x: Tensor },
  }));
  const found = [deep[0][0].y, ...set, map.get('k')![0], none.x];
  for (const tensor of found) {
    assert.not.ok(tensor.disposed);
    tensor.dispose();
  }
});

engine('a scope refuses an object of a class whose tensors it would free, and names class and field', () => {
  class Cache {
    constructor(
      readonly keys: Tensor | Tensor[] | Map<string, Tensor>,
      readonly backend_ = backend,
    ) {}
  }
  const hides = (e: Error) =>
    e instanceof ArgumentError && /a Cache whose keys holds tensor #\d+ f32\[1\].*keep\(\)/.test(e.message);
  assert.throws(() => scope(() => new Cache(vector(1))), hides);
  assert.throws(() => scope(() => ({ cache: new Cache([vector(1)]) })), hides);
  assert.throws(() => scope(() => [new Cache(new Map([['k', vector(1)]]))]), hides);
  const outer = vector(1);
  const [kept, foreign] = scope(() => [new Cache(keep(vector(1))), new Cache([outer])]);
  for (const tensor of [kept.keys as Tensor, (foreign.keys as Tensor[])[0]]) {
    assert.not.ok(tensor.disposed);
    tensor.dispose();
  }
});

engine('a scope frees also when its body throws, and refuses a promise', () => {
  assert.throws(() => scope(() => { vector(1); throw new Error('x'); }), /x/);
  assert.throws(() => scope(async () => { vector(1); }), (e: Error) => e instanceof ArgumentError && /await/.test(e.message));
});

engine('a freed tensor throws and is named', () => {
  const x = vector(1);
  x.name = 'lm_head.weight';
  x.dispose();
  assert.throws(() => add(x, x), (e: Error) => e instanceof DisposedError && /"lm_head.weight".*after it was freed/.test(e.message));
});

engine('using frees at the end of the block', () => {
  let x!: Tensor;
  {
    using y = vector(1, 2);
    x = y;
  }
  assert.ok(x.disposed);
});

engine('gradients add up over uses and over calls of backward', async () => {
  const x = vector(2, 3);
  x.requiresGrad = true;
  scope(() => backward(sum(mul(x, x))));
  scope(() => backward(sum(add(x, x))));
  assert.equal([...(await x.grad!.data())], [6, 8]);
  x.dispose();
});

engine('noGrad records nothing, and a frozen tensor gets no gradient', () => {
  const x = vector(1);
  const w = vector(2);
  x.requiresGrad = true;
  scope(() => {
    assert.is(noGrad(() => mul(x, w)).requiresGrad, false);
    backward(sum(mul(x, w)));
  });
  assert.is(w.grad, null);
  x.dispose();
  w.dispose();
});

engine('an abandoned graph frees what it saved', () => {
  const x = vector(1, 2, 3);
  x.requiresGrad = true;
  const y = scope(() => mul(mul(x, x), x));
  x.dispose();
  assert.ok(backend.memory.live > 3 * 4);
  y.dispose();
});

engine('a second backward through a graph is refused', () => {
  const x = vector(2);
  x.requiresGrad = true;
  scope(() => {
    const y = sum(mul(x, x));
    backward(y);
    assert.throws(() => backward(y), /backward ran through this graph before/);
  });
  x.dispose();
});

engine('backward of what is no scalar asks for a gradient', () => {
  const x = vector(1, 2);
  x.requiresGrad = true;
  scope(() => assert.throws(() => backward(mul(x, x)), /is no scalar/));
  x.dispose();
});

engine('a checkpoint keeps only its inputs and gives the same gradients', async () => {
  const x = vector(1, 2, 3);
  const w = vector(4, 5, 6);
  for (const t of [x, w]) t.requiresGrad = true;
  const body = ([t]: Tensor[]) => [mul(mul(t, w), mul(t, w))];
  const grads: number[][] = [];
  for (const run of [body, (inputs: Tensor[]) => checkpoint(body, inputs)]) {
    scope(() => backward(sum(run([x])[0])));
    grads.push([...(await x.grad!.data()), ...(await w.grad!.data())]);
    for (const t of [x, w]) {
      t.grad!.dispose();
      t.grad = null;
    }
  }
  assert.equal(grads[0], grads[1]);
  x.dispose();
  w.dispose();
});

engine('a graph may be deeper than the stack', async () => {
  const x = vector(1);
  x.requiresGrad = true;
  const chain = (): Tensor => {
    let y = add(x, x);
    for (let i = 1; i < 100_000; i++) {
      const next = add(y, x);
      y.dispose();
      y = next;
    }
    return y;
  };
  chain().dispose();
  const y = chain();
  scope(() => backward(y));
  assert.equal([...(await x.grad!.data())], [100_001]);
  y.dispose();
  x.dispose();
});

engine('backward refuses a tensor that changed since the op saved it, and names op and tensor', () => {
  const [x, y, z] = [vector(1, 2), vector(10, 10), vector(3, 4)];
  x.name = 'layers.0.weight';
  for (const t of [x, z]) t.requiresGrad = true;
  scope(() => {
    const loss = sum(mul(x, z));
    copy_(x, y);
    const said = /^mul: .*"layers\.0\.weight" f32\[2\].*changed in place/;
    assert.throws(() => backward(loss), (e: Error) => e instanceof ArgumentError && said.test(e.message));
    const again = mul(x, z);
    copy_(y, z);
    assert.not.throws(() => backward(sum(again)), 'what was not saved may change');
  });
  for (const t of [x, y, z]) t.dispose();
});

engine('an allocation that cannot be met says so on every backend', async () => {
  const wasm = await WasmBackend.create();
  const named = (e: Error) => e instanceof OutOfMemoryError;
  for (const b of [backend, wasm]) {
    for (const size of [2 ** 30, 2 ** 34, 2 ** 40]) {
      if (b === wasm || size > 2 ** 39) assert.throws(() => zeros(b, [size]), named, `${b.kind} ${size}`);
    }
    assert.is(b.memory.live, 0);
  }
});

engine('reshape is free and differentiable', async () => {
  const x = vector(1, 2, 3, 4);
  x.requiresGrad = true;
  scope(() => {
    const before = backend.memory.live;
    const y = reshape(x, [2, -1]);
    assert.is(backend.memory.live, before);
    assert.equal(y.shape, [2, 2]);
    assert.throws(() => reshape(x, [3, -1]), (e: Error) => e instanceof ShapeError);
    backward(sum(mul(y, y)));
  });
  assert.equal([...(await x.grad!.data())], [2, 4, 6, 8]);
  x.dispose();
});

engine('shape errors name op, argument and shapes', () => {
  scope(() => {
    const [x, w] = [vector(1, 2, 3), fromData(backend, [1, 2], [1, 2])];
    assert.throws(() => linear(x, w), /linear: x \[3\] and weight \[1, 2\] do not fit/);
    const addend = fromData(x.backend, [1, 2], [2]);
    assert.throws(() => linear(addend, w, null, { addend }), /linear: addend \[2\] does not fit the product, expected \[1\]/);
    assert.throws(() => add(x, vector(1, 2)), /add: .*\[3\].*\[2\]/);
    assert.throws(() => fromData(backend, [1], [2]), /1 values for shape \[2\], expected 2/);
  });
});

engine('tensors of two backends do not mix', async () => {
  const wasm = await WasmBackend.create();
  const [x, y] = [vector(1), scalar(wasm, 1)];
  assert.throws(() => add(x, y), /wasm/);
  x.dispose();
  y.dispose();
});

engine('parameters are named by where they are, and taken once', () => {
  const p = new Parameters((_, shape) => fromData(backend, new Float32Array(shape[0]), shape));
  p.at('layers').at(0).get('weight', [2]);
  assert.throws(() => p.at('layers').at(0).get('weight', [2]), /"layers.0.weight" is taken twice/);
  assert.equal([...p.all.keys()], ['layers.0.weight']);
  for (const t of p.all.values()) t.dispose();
});

engine('the leak report names count, bytes and place', async () => {
  const leaked: Tensor[] = [];
  const report = await leakReport(() => {
    scope(() => void vector(1));
    for (let i = 0; i < 3; i++) leaked.push(vector(1, 2));
  });
  assert.is(report.length, 1);
  assert.match(report[0], /^3 live, 24 bytes, such as tensor #\d+ f32\[2\], made at vector \(/);
  for (const t of leaked) t.dispose();
});

engine('the leak report names op and caller, counts 16-bit floats as such, and what is shared once', async () => {
  const leaked: Tensor[] = [];
  const forgets = (x: Tensor) => leaked.push(mul(x, x));
  const report = await leakReport(() => {
    const x = vector(1, 2, 3, 4);
    forgets(x);
    leaked.push(x, x.detach(), reshape(x, [2, 2]), cast(x, 'f16'));
  });
  for (const t of leaked) t.dispose();
  const lines = (pattern: RegExp) => report.filter((line) => pattern.test(line));
  assert.is(lines(/^1 live, 16 bytes, .*made by mul at .* < forgets \(/).length, 1, report.join('\n'));
  assert.is(lines(/^1 live, 8 bytes, .*f16\[4\], made by cast at cast\d* \(/).length, 1, report.join('\n'));
  assert.is(lines(/^1 live, 16 bytes, .*made at vector \(/).length, 1, report.join('\n'));
  assert.is(lines(/^1 live, 0 bytes, /).length, 2, report.join('\n'));
  assert.is(lines(/Tensor \(|empty|apply/).length, 0, report.join('\n'));
});

engine('the profiler counts calls and bytes', () => {
  backend.profiler = new Profiler();
  scope(() => add(add(vector(1, 2), vector(3, 4)), vector(5, 6)) && null);
  const row = backend.profiler.rows().find((r) => r.name === 'add')!;
  assert.is(row.calls, 2);
  assert.is(row.bytes, 2 * 3 * 8);
  backend.profiler = null;
});

engine.run();
