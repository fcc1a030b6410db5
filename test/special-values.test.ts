import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Backend } from '../engine/backend.ts';
import { backwardFrom } from '../engine/tape.ts';
import { fromData, type Tensor } from '../engine/tensor.ts';
import {
  add,
  amax,
  amin,
  backward,
  binary,
  cast,
  clamp,
  logSoftmax,
  logsumexp,
  softmax,
  sum,
  unary,
  unaryNames,
  where,
} from '../ops/index.ts';
import { closeBackend, openBackend, openGpu } from './support/backends.ts';

const reference = await openBackend('reference');
const others = [await openBackend('wasm'), await openGpu()];
const test = suite('NaN, infinities, zeros, tails');

test.after(() => [reference, ...others].forEach(closeBackend));

/** Values of `body` and gradients of its inputs for gradients of ones, as lists. */
async function run(backend: Backend, inputs: number[][], body: (t: Tensor[]) => Tensor): Promise<number[][]> {
  const tensors = inputs.map((data) => fromData(backend, data, [data.length]));
  for (const t of tensors) t.requiresGrad = true;
  const y = body(tensors);
  backwardFrom([y], [fromData(backend, new Float32Array(y.size).fill(1), y.shape)], add);
  return Promise.all([y, ...tensors.map((t) => t.grad!)].map(async (t) => [...(await t.data())]));
}

function near(got: number, want: number, most: number): boolean {
  if (Object.is(got, want) || (Number.isNaN(got) && Number.isNaN(want))) return true;
  // Drivers may flush what is below the least normal number.
  return Math.abs(got - want) <= Math.max(most * Math.abs(want), 2 ** -126);
}

/**
 * Fails unless WASM and WebGPU give what the reference does: NaN for NaN, values to a relative error. Gradients that are
 * differences (1 − y²) have an absolute one.
 */
async function agree(label: string, inputs: number[][], body: (t: Tensor[]) => Tensor, most = 1e-5): Promise<void> {
  const want = await run(reference, inputs, body);
  for (const backend of others) {
    const got = await run(backend, inputs, body);
    want.forEach((list, k) =>
      list.forEach((w, i) => {
        const at = inputs.map((x) => x[i] ?? x.join()).join(', ');
        const what = k === 0 ? 'value' : `gradient ${k - 1}`;
        assert.ok(near(got[k][i], w, most) || (k > 0 && Math.abs(got[k][i] - w) < 1e-6), `${backend.kind} ${label}(${at}): ${what} is ${got[k][i]}, expected ${w}`);
      }),
    );
  }
}

const SPECIAL = [NaN, 0, Infinity, -Infinity, 1e-6, -1e-6, 0.1, -0.3, -3, 5, -5, 6, -6, -9, 3e38, -3e38];
/** Where backends need not agree: a large angle, 0·∞ in a product. */
const DOMAIN: Record<string, (x: number) => boolean> = {
  sin: (x) => !(Math.abs(x) > 100),
  cos: (x) => !(Math.abs(x) > 100),
  silu: (x) => x !== -Infinity,
  gelu: (x) => Math.abs(x) !== Infinity,
  gelu_tanh: (x) => Math.abs(x) !== Infinity,
};

for (const name of unaryNames) {
  test(`${name} of special values`, async () => {
    await agree(name, [SPECIAL.filter(DOMAIN[name] ?? (() => true))], ([x]) => unary(name, x));
  });
}

const PAIRS = [NaN, 0, Infinity, -Infinity, 1, -2, 3];

for (const name of ['maximum', 'minimum'] as const) {
  test(`${name} keeps NaN on either side, in its gradients too`, async () => {
    const a = PAIRS.flatMap((x) => PAIRS.map(() => x));
    const b = PAIRS.flatMap(() => PAIRS);
    await agree(name, [a, b], ([x, y]) => binary(name, x, y));
    const [y, da, db] = await run(others[1], [[Infinity, NaN], [Infinity, 1]], ([a, b]) => binary(name, a, b));
    assert.equal([y, da, db].map(([first]) => first), [Infinity, 0.5, 0.5], 'torch halves the gradient of a tie');
    assert.ok([y, da, db].every(([, second]) => Number.isNaN(second)));
  });
}

test('pow at zero, of NaN and of infinities', async () => {
  const a = [0, 0, 0, 0, 0, 0, 0, -0, -0, NaN, NaN, 2, 0, Infinity, Infinity, -Infinity, -Infinity];
  const b = [-1, -2, -0.5, 0.5, 1, 2, 3, -1, -2, 0, 2, NaN, NaN, 2.5, -2, 3, 2];
  const values = (backend: Backend) => run(backend, [a, b], ([x, y]) => binary('pow', x, y));
  const [want] = await values(reference);
  assert.equal(want.slice(0, 9), [Infinity, Infinity, Infinity, 0, 0, 0, 0, -Infinity, Infinity]);
  for (const backend of others) {
    const [y] = await values(backend);
    y.forEach((v, i) => assert.ok(near(v, want[i], 1e-6), `${backend.kind}: pow(${a[i]}, ${b[i]}) is ${v}`));
  }
  await agree('pow', [[0, 0, 0, 0, 0, 0], [0.5, 1, 1.5, 2, 0, -1]], ([x, y]) => binary('pow', x, y));
});

test('clamp, reductions and softmax keep NaN', async () => {
  for (const bounds of [{ min: -1 }, { max: 1 }, { min: -1, max: 1 }]) {
    await agree(`clamp ${JSON.stringify(bounds)}`, [PAIRS], ([x]) => clamp(x, bounds));
  }
  const long = (at: number) => Array.from({ length: 3000 }, (_, i) => (i === at ? NaN : Math.sin(i)));
  for (const [name, reduce] of Object.entries({ amax, amin, logsumexp, softmax, sum })) {
    for (const list of [[NaN, 1, 2], [1, NaN, 2], [1, 2, NaN], long(0), long(1500), long(2999)]) {
      for (const backend of [reference, ...others]) {
        const y = await reduce(fromData(backend, list, [list.length])).data();
        assert.ok(y.every((v: number) => Number.isNaN(v)), `${backend.kind} ${name} of ${list.length} values`);
      }
    }
  }
});

test('softmax, its logarithm and logsumexp of infinities and large values, with gradients, as in torch', async () => {
  const [inf, big] = [Infinity, 3e38];
  const rows = [[-inf, -inf], [inf, 0], [-inf, 1], [NaN, 0], [big, big], [-big, -big], [big, -big], [-inf, -big]];
  const nan = [NaN, NaN];
  // Gradients for a gradient of (1, 0), for logsumexp of 1.
  const want = {
    softmax: [nan, nan, [0, 1], nan, [0.5, 0.5], [0.5, 0.5], [1, 0], [0, 1]],
    dsoftmax: [nan, nan, [0, 0], nan, [0.25, -0.25], [0.25, -0.25], [0, 0], [0, 0]],
    logSoftmax: [nan, nan, [-inf, 0], nan, [-Math.LN2, -Math.LN2], [-Math.LN2, -Math.LN2], [0, -inf], [-inf, 0]],
    dlogSoftmax: [nan, nan, [1, -1], nan, [0.5, -0.5], [0.5, -0.5], [0, 0], [1, -1]],
    logsumexp: [[-inf], [inf], [1], [NaN], [big], [-big], [big], [-big]],
    dlogsumexp: [nan, [NaN, 0], [0, 1], nan, [0.5, 0.5], [0.5, 0.5], [1, 0], [0, 1]],
  };
  for (const backend of [reference, ...others]) {
    const x = fromData(backend, rows.flat(), [rows.length, 2]);
    const check = async (name: 'softmax' | 'logSoftmax' | 'logsumexp', y: Tensor, dy: number[]) => {
      x.requiresGrad = true;
      x.grad = null;
      backwardFrom([y], [fromData(backend, rows.flatMap(() => dy), y.shape)], add);
      for (const [key, got] of [[name, await y.data()], [`d${name}`, await x.grad!.data()]] as const) {
        const expected = want[key as keyof typeof want].flat();
        expected.forEach((w, i) => {
          assert.ok(near(got[i], w, 1e-6), `${backend.kind} ${key}[${i}]: ${got[i]}, expected ${w}`);
        });
      }
    };
    x.requiresGrad = true;
    await check('softmax', softmax(x), [1, 0]);
    await check('logSoftmax', logSoftmax(x), [1, 0]);
    await check('logsumexp', logsumexp(x, { dim: 1 }), [1]);
  }
});

test('NaN is not 0 as a condition and as bool', async () => {
  const x = [NaN, 0, -0, 1e-6, -Infinity];
  for (const backend of [reference, ...others]) {
    const cond = fromData(backend, x, [5]);
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      const held = await cast(cast(cond, dtype), 'bool').data();
      assert.equal([...held], [1, 0, 0, 1, 1], `${backend.kind} ${dtype}`);
    }
    const [yes, no] = [3, 5].map((v) => fromData(backend, [v], [1]));
    for (const t of [yes, no]) t.requiresGrad = true;
    const y = where(cond, yes, no);
    backward(sum(y));
    const got = await Promise.all([y, yes.grad!, no.grad!].map(async (t) => [...(await t.data())]));
    assert.equal(got, [[3, 5, 5, 3, 3], [3], [2]], backend.kind);
  }
});

test('casts to integers: NaN is 0, and what is too large the bound', async () => {
  const x = [NaN, Infinity, -Infinity, 3e9, -3e9, 5e9, 2147483647, -2147483648, 4294967040, -1, 1.9, -1.9];
  const i32 = [0, 2147483647, -2147483648, 2147483647, -2147483648, 2147483647, 2147483647, -2147483648, 2147483647];
  const u32 = [0, 4294967295, 0, 3e9, 0, 4294967295, 2147483648, 0, 4294967040];
  for (const backend of [reference, ...others]) {
    const of = async (dtype: 'i32' | 'u32') => [...(await cast(fromData(backend, x, [x.length]), dtype).data())];
    assert.equal(await of('i32'), [...i32, -1, 1, -1], backend.kind);
    assert.equal(await of('u32'), [...u32, 0, 1, 0], backend.kind);
  }
});

test.run();
