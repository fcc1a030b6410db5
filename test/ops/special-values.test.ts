import * as assert from 'uvu/assert';
import type { Backend } from '../../engine/backend.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import { binary, unary, unaryNames } from '../support/elementwise.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { amax, amin, backwardFrom, clamp, logSoftmax, logsumexp, softmax, sum } = ops;
const { test, backends, reference, others } = await suiteOnBackends('NaN, infinities, zeros, tails');

/** Values of `body` and gradients of its inputs for gradients of ones, as lists. */
async function run(backend: Backend, inputs: number[][], body: (t: Tensor[]) => Tensor): Promise<number[][]> {
  const tensors = inputs.map((data) => fromData(backend, data, [data.length]));
  for (const t of tensors) t.requiresGrad = true;
  const y = body(tensors);
  backwardFrom([y], [fromData(backend, new Float32Array(y.size).fill(1), y.shape)]);
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

for (const name of unaryNames) {
  test(`${name} of special values`, () => agree(name, [SPECIAL], ([x]) => unary[name](x)));
}

test('sin and cos of any angle', async () => {
  // Multiples of π/2 leave nothing but the last bits of the reduction.
  const multiples = [1, 2, 3, 1000, 5215.5, 1e6, 1e9].map((k) => k * (Math.PI / 2));
  const powers = Array.from({ length: 128 }, (_, e) => 1.37 * 2 ** e);
  const angles = [1e6, 1e10, 8191.9, 8192.1, 3.4028234e38, ...multiples, ...powers].flatMap((x) => [x, -x]).map(Math.fround);
  for (const backend of backends) {
    for (const [name, f] of [['sin', Math.sin], ['cos', Math.cos]] as const) {
      const got = await unary[name](fromData(backend, angles, [angles.length])).data();
      angles.forEach((x, i) => assert.ok(Math.abs(got[i] - f(x)) < 3e-7, `${backend.kind}: ${name}(${x}) is ${got[i]}`));
    }
  }
});

test('what is odd keeps the sign of −0', async () => {
  for (const name of ['sin', 'tanh', 'erf', 'sqrt', 'silu', 'gelu'] as const) {
    for (const beside of [1, 1e6]) {
      for (const backend of backends) {
        const y = await unary[name](fromData(backend, [-0, 0, beside], [3])).data();
        assert.ok(Object.is(y[0], -0) && Object.is(y[1], 0), `${backend.kind} ${name}: ${y[0]}, ${y[1]} beside ${beside}`);
      }
    }
  }
});

test('logarithms and powers of subnormal numbers', async () => {
  const tiny = [1e-40, 1e-45, 3e-39, 2 ** -126].map(Math.fround);
  for (const backend of backends) {
    const x = fromData(backend, tiny, [tiny.length]);
    const log = await unary.log(x).data();
    tiny.forEach((v, i) => assert.ok(near(log[i], Math.log(v), 1e-5), `${backend.kind} log(${v}) is ${log[i]}`));
    for (const b of [0.5, 0.1, -0.5, -0.9, 3, -3]) {
      const y = await binary.pow(x, fromData(backend, [b], [1])).data();
      tiny.forEach((v, i) => {
        const want = Math.fround(v ** b);
        assert.ok(near(y[i], want, 1e-4), `${backend.kind} pow(${v}, ${b}) is ${y[i]}, expected ${want}`);
      });
    }
  }
});

test('the gradient of a power in its exponent, near a base of 1', async () => {
  const bases = [1.0001, 0.9999, 1.00001, 1.2, 0.8].map(Math.fround);
  for (const backend of backends) {
    const [, , db] = await run(backend, [bases, bases.map(() => 2)], ([a, b]) => binary.pow(a, b));
    bases.forEach((a, i) => assert.ok(near(db[i], a * a * Math.log(a), 1e-5), `${backend.kind} at ${a}: ${db[i]}`));
  }
});

const PAIRS = [NaN, 0, Infinity, -Infinity, 1, -2, 3];

for (const name of ['maximum', 'minimum'] as const) {
  test(`${name} keeps NaN on either side, in its gradients too`, async () => {
    const a = PAIRS.flatMap((x) => PAIRS.map(() => x));
    const b = PAIRS.flatMap(() => PAIRS);
    await agree(name, [a, b], ([x, y]) => binary[name](x, y));
    const [y, da, db] = await run(others[1], [[Infinity, NaN], [Infinity, 1]], ([a, b]) => binary[name](a, b));
    assert.equal([y, da, db].map(([first]) => first), [Infinity, 0.5, 0.5], 'torch halves the gradient of a tie');
    assert.ok(Number.isNaN(y[1]));
    assert.equal([da[1], db[1]], [1, 1], 'torch hands a gradient on to both sides of a NaN');
  });
}

const [INF, ODD, EVEN] = [Infinity, 16777215, 16777216];
/** Rows of C's table (F.10.4.4): bases, exponents, the power of every pair. */
const POWERS: [bases: number[], exponents: number[], power: number][] = [
  [[1], [NaN, INF, -INF, 0, 7, -0.5], 1],
  [[NaN, 0, -0, INF, -INF, -1, -3.5, 2], [0, -0], 1],
  [[-1], [INF, -INF, EVEN, -2], 1],
  [[-1], [ODD, -3], -1],
  [[NaN], [NaN, 1, -2, INF], NaN],
  [[0, -0, -1, 2, INF, -INF, -3.5], [NaN], NaN],
  [[-2, -1, -0.5], [0.5, -1.5, 2.25], NaN],
  [[0], [-1, -2, -0.5, -INF, -ODD], INF],
  [[-0], [-1, -3, -ODD], -INF],
  [[-0], [-2, -0.5, -INF, -EVEN], INF],
  [[0], [1, 2, 0.5, INF, ODD], 0],
  [[-0], [1, 3, ODD], -0],
  [[-0], [2, 0.5, INF, EVEN], 0],
  [[0.5, -0.5, 0], [INF], 0],
  [[0.5, -0.5, 0, -0], [-INF], INF],
  [[2, -2, INF, -INF], [INF], INF],
  [[2, -2, INF, -INF], [-INF], 0],
  [[INF], [1, 0.5, 2, ODD], INF],
  [[INF], [-1, -0.5, -2, -ODD], 0],
  [[-INF], [1, 3, ODD], -INF],
  [[-INF], [0.5, 2, 2.5, EVEN], INF],
  [[-INF], [-1, -3], -0],
  [[-INF], [-0.5, -2, -EVEN], 0],
  [[2], [-3], 0.125],
  [[-2], [3], -8],
];

test('pow has the special values of C', async () => {
  const rows = POWERS.flatMap(([bases, exponents, power]) => bases.flatMap((a) => exponents.map((b) => [a, b, power])));
  const [a, b] = [0, 1].map((k) => rows.map((row) => row[k]));
  for (const backend of backends) {
    const y = await binary.pow(...([a, b].map((x) => fromData(backend, x, [x.length])) as [Tensor, Tensor])).data();
    rows.forEach(([x, e, want], i) => {
      assert.ok(Object.is(y[i], want) || Math.abs(y[i] - want) < 1e-6, `${backend.kind}: pow(${x}, ${e}) is ${y[i]}, expected ${want}`);
    });
  }
  await agree('pow', [[0, 0, 0, 0, 0, 0], [0.5, 1, 1.5, 2, 0, -1]], ([x, y]) => binary.pow(x, y));
});

test('a first operand that is stretched divides and subtracts as any other', async () => {
  const cases: [name: 'div' | 'sub', a: number, b: number[], want: number[]][] = [
    ['div', 0, [1e-30, 1, -2, 3e38], [0, 0, -0, 0]],
    ['div', 1e-10, [1e-37, 1, 3e38, 7], [1e27, 1e-10, 0, 1e-10 / 7]],
    ['div', 3, [7, 10, -0, 41], [3 / 7, 0.3, -Infinity, 3 / 41]],
    ['sub', 1, [1, 2, -1, Infinity], [0, -1, 2, -Infinity]],
  ];
  for (const backend of backends) {
    for (const [name, a, b, want] of cases) {
      // One number, a row and a column: [1] with [4], [4] with [2, 4], [4, 1] with [4, 2].
      const whole = [...b, ...b];
      const twice = b.flatMap((v) => [v, v]);
      for (const [first, second, data, values] of [
        [[1], [4], b, want],
        [[4], [2, 4], whole, [...want, ...want]],
        [[4, 1], [4, 2], twice, want.flatMap((v) => [v, v])],
      ] as const) {
        const x = fromData(backend, new Float32Array(first[0]).fill(a), first);
        const y = await binary[name](x, fromData(backend, data, second)).data();
        values.forEach((w, i) => {
          const right = Object.is(y[i], w) || Math.abs(y[i] - w) <= 1.2e-7 * Math.abs(w) + 2 ** -126;
          assert.ok(right && Object.is(Math.sign(y[i]), Math.sign(w)), `${backend.kind} ${name}(${a}, ${data[i]}) is ${y[i]}`);
        });
      }
    }
  }
});

test('gradients at NaN are those of torch', async () => {
  for (const backend of backends) {
    const slope = async (body: (x: Tensor) => Tensor) => (await run(backend, [[NaN]], ([x]) => body(x)))[1][0];
    assert.is(await slope((x) => unary.relu(x)), 1, `${backend.kind} relu`);
    assert.is(await slope((x) => unary.abs(x)), 0, `${backend.kind} abs`);
    assert.is(await slope((x) => clamp(x, { min: 0, max: 1 })), 0, `${backend.kind} clamp`);
  }
});

test('the gradient of clamp passes at a bound that f32 rounds', async () => {
  for (const backend of backends) {
    for (const v of [0.1, 0.3, 1 / 3, -0.7]) {
      for (const bounds of [{ min: v }, { max: v }, { min: v, max: v }]) {
        const [y, dx] = await run(backend, [[v]], ([x]) => clamp(x, bounds));
        assert.equal([y, dx], [[Math.fround(v)], [1]], `${backend.kind} ${JSON.stringify(bounds)}`);
      }
    }
  }
});

test('a bound of NaN makes all of clamp NaN', async () => {
  for (const bounds of [{ min: NaN }, { max: NaN }, { min: NaN, max: 1 }, { min: 0, max: NaN }]) {
    for (const backend of backends) {
      const [y, dx] = await run(backend, [[-5, 0.5, 5, Infinity, NaN]], ([x]) => clamp(x, bounds));
      assert.ok(y.every(Number.isNaN), backend.kind);
      assert.equal(dx, [0, 0, 0, 0, 0], backend.kind);
    }
  }
});

test('clamp, reductions and softmax keep NaN', async () => {
  for (const bounds of [{ min: -1 }, { max: 1 }, { min: -1, max: 1 }]) {
    await agree(`clamp ${JSON.stringify(bounds)}`, [PAIRS], ([x]) => clamp(x, bounds));
  }
  const long = (at: number) => Array.from({ length: 3000 }, (_, i) => (i === at ? NaN : Math.sin(i)));
  for (const [name, reduce] of Object.entries({ amax, amin, logsumexp, softmax, sum })) {
    for (const list of [[NaN, 1, 2], [1, NaN, 2], [1, 2, NaN], long(0), long(1500), long(2999)]) {
      for (const backend of backends) {
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
  for (const backend of backends) {
    const x = fromData(backend, rows.flat(), [rows.length, 2]);
    const check = async (name: 'softmax' | 'logSoftmax' | 'logsumexp', y: Tensor, dy: number[]) => {
      x.requiresGrad = true;
      x.grad = null;
      backwardFrom([y], [fromData(backend, rows.flatMap(() => dy), y.shape)]);
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
  for (const backend of backends) {
    const cond = fromData(backend, x, [5]);
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      const held = await ops.cast(ops.cast(cond, dtype), 'bool').data();
      assert.equal([...held], [1, 0, 0, 1, 1], `${backend.kind} ${dtype}`);
    }
    const [yes, no] = [3, 5].map((v) => fromData(backend, [v], [1]));
    for (const t of [yes, no]) t.requiresGrad = true;
    const y = ops.where(cond, yes, no);
    ops.backward(sum(y));
    const got = await Promise.all([y, yes.grad!, no.grad!].map(async (t) => [...(await t.data())]));
    assert.equal(got, [[3, 5, 5, 3, 3], [3], [2]], backend.kind);
  }
});

test('casts to integers: NaN is 0, and what is too large the bound', async () => {
  const x = [NaN, Infinity, -Infinity, 3e9, -3e9, 5e9, 2147483647, -2147483648, 4294967040, -1, 1.9, -1.9];
  const i32 = [0, 2147483647, -2147483648, 2147483647, -2147483648, 2147483647, 2147483647, -2147483648, 2147483647];
  const u32 = [0, 4294967295, 0, 3e9, 0, 4294967295, 2147483648, 0, 4294967040];
  for (const backend of backends) {
    const of = async (dtype: 'i32' | 'u32') => [...(await ops.cast(fromData(backend, x, [x.length]), dtype).data())];
    assert.equal(await of('i32'), [...i32, -1, 1, -1], backend.kind);
    assert.equal(await of('u32'), [...u32, 0, 1, 0], backend.kind);
  }
});

test.run();
