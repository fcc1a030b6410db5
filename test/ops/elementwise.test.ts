import fc from 'fast-check';
import * as assert from 'uvu/assert';
import { elements } from '../../engine/backend.ts';
import type { Backend } from '../../engine/backend.ts';
import { type DType, type ElementDType, FLOATS, type HostArray, isPlain } from '../../engine/dtype.ts';
import { fromBfloat, fromHalf, toBfloat, toHalf } from '../../engine/half.ts';
import { DTypeError, ShapeError } from '../../engine/errors.ts';
import { fromData, scalar, type Tensor } from '../../engine/tensor.ts';
import * as ops from '../../ops/index.ts';
import type { Run } from '../cases/case.ts';
import { agreement, assertNear, evaluate, random } from '../support/agree.ts';
import { binary, unary, unaryNames } from '../support/elementwise.ts';
import { throws } from '../support/expect.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { add, cast, clone, eq, fill, gt, isinf, isnan, logicalAnd, mul, rand, randn } = ops;
const { test, backends, reference, others, wasms, gpu } = await suiteOnBackends('elementwise ops');

const agree = agreement(reference, others, 1e-5);

/** Two or three shapes that broadcast, with sizes that do and do not divide by four. */
const shapes = (count: number) =>
  fc
    .record({
      full: fc.array(fc.constantFrom(1, 2, 3, 4, 8), { minLength: 0, maxLength: 6 }),
      drop: fc.array(fc.nat(6), { minLength: count, maxLength: count }),
      flat: fc.array(fc.nat(63), { minLength: count, maxLength: count }),
    })
    .map(({ full, drop, flat }) =>
      drop.map((n, k) => full.map((d, i) => ((flat[k] >> i) & 1 ? 1 : d)).slice(Math.min(n, full.length))),
    );

test('functions of two arguments agree under any broadcasting, in any format', async () => {
  const name = fc.constantFrom('add', 'sub', 'mul', 'div', 'maximum', 'minimum');
  const dtype = fc.constantFrom(...FLOATS);
  await fc.assert(
    fc.asyncProperty(name, shapes(2), dtype, dtype, async (op, [a, b], first, second) => {
      const away = random(elements(b), 7, 1, op === 'div' ? 2 : 0);
      const run: Run = (t) => cast(binary[op](cast(t(...a), first), cast(t.leaf(away, b), second)), 'f32');
      const tolerance = first === 'f32' && second === 'f32' ? 1e-5 : 0.01;
      await agree(run, `${op} ${first} [${a}] ${second} [${b}]`, tolerance);
    }),
    { numRuns: 60, seed: 1 },
  );
});

test('where agrees under any broadcasting', async () => {
  await fc.assert(
    fc.asyncProperty(shapes(3), async ([c, a, b]) => {
      const cond = Int32Array.from(random(elements(c), 3), (v) => Number(v > 0) * 2);
      await agree((t) => ops.where(t.values(cond, c, 'i32'), t(...a), t(...b)), `${c}`);
    }),
    { numRuns: 20, seed: 2 },
  );
});

/** Of every magnitude, and where the exponential begins and ends. */
const MAGNITUDES = Array.from({ length: 400 }, (_, i) => 10 ** (-30 + i * 0.0797)).flatMap((v) => [v, -v]);
/** Vectors with and without a tail. */
const VECTORS = [1, 2, 3, 4, 5, 7, 401].map((n) => [...random(n, n, n > 100 ? 18 : 6)]);
/** Functions whose smallest results are as exact, relative to their size, as all others, of whatever size the operand. */
const RELATIVE: readonly string[] = ['exp', 'log', 'tanh', 'sigmoid', 'softplus', 'erf', 'silu'];

for (const name of unaryNames) {
  test(`${name} and its gradient are exact on WASM, at every size of a vector and of a number`, async () => {
    const relative = RELATIVE.includes(name);
    for (const x of relative ? [...VECTORS, [...MAGNITUDES, 88.7, -103.9, 1e-40]] : VECTORS) {
      const run: Run = (t) => unary[name](t.leaf(Float32Array.from(x), [x.length]));
      const [want, slope] = await evaluate(reference, run);
      for (const wasm of wasms) {
        const [y, dx] = await evaluate(wasm, run);
        const near = (got: number, want: number, share: number, most: number) =>
          Object.is(got + 0, want + 0) || Math.abs(got - want) <= share * Math.abs(want) + most;
        x.forEach((v, i) => {
          const label = `${wasm.description} ${name}(${v}) of ${x.length}`;
          assert.ok(near(y[i], want[i], 2e-6, relative ? 1.2e-38 : 3e-7), `${label} is ${y[i]}, expected ${want[i]}`);
          assert.ok(near(dx[i], slope[i], 4e-6, 1e-6), `${label}: gradient ${dx[i]}, expected ${slope[i]}`);
        });
      }
    }
  });
}

/** Operands, or a number instead of the second, and the values of torch. */
type Values = readonly [dtype: DType, x: number[], other: number[] | number, want: number[], gives?: DType];
const MIXED = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3, -3.7];
const [MOST, LEAST, WORDS] = [2 ** 31 - 1, -(2 ** 31), 2 ** 32];

const VALUES: Record<string, [run: (x: Tensor, other: Tensor, c: number) => Tensor, ...cases: Values[]]> = {
  floor: [unary.floor, ['f32', MIXED, 0, [-3, -2, -1, 0, 1, 2, 3, -4]], ['f16', [-2.5, 7], 0, [-3, 7]]],
  ceil: [unary.ceil, ['f32', MIXED, 0, [-2, -1, -0, 1, 2, 3, 3, -3]]],
  round: [unary.round, ['f32', MIXED, 0, [-2, -2, -0, 0, 2, 2, 3, -4]], ['bf16', [0.5, 3.5], 0, [0, 4]]],
  sign: [
    unary.sign,
    ['f32', [-2, 0, 3, NaN], 0, [-1, 0, 1, 0]],
    ['i32', [-2, 0, 3], 0, [-1, 0, 1]],
    ['u32', [0, WORDS - 1], 0, [0, 1]],
  ],
  neg: [unary.neg, ['i32', [1, LEAST], 0, [-1, LEAST]], ['u32', [1, 0], 0, [WORDS - 1, 0]]],
  abs: [unary.abs, ['i32', [-5, 5, LEAST], 0, [5, 5, LEAST]], ['u32', [WORDS - 1], 0, [WORDS - 1]]],
  relu: [unary.relu, ['i32', [-5, 5], 0, [0, 5]]],
  square: [unary.square, ['i32', [-5, 65537], 0, [25, 131073]]],
  add: [binary.add, ['i32', [MOST, -1], [1, 1], [LEAST, 0]], ['u32', [WORDS - 1], [2], [1]]],
  sub: [binary.sub, ['i32', [LEAST], [1], [MOST]], ['u32', [0, 7], [1, 3], [WORDS - 1, 4]]],
  mul: [
    binary.mul,
    ['i32', [65537, -3, MOST], [65537, 4, MOST], [131073, -12, 1]],
    ['u32', [WORDS - 1], [WORDS - 1], [1]],
  ],
  div: [binary.div, ['i32', [7, -1, 1], [2, 4, 0], [3.5, -0.25, Infinity], 'f32']],
  maximum: [binary.maximum, ['i32', [-1, 5], [1, 2], [1, 5]], ['u32', [WORDS - 1], [1], [WORDS - 1]]],
  minimum: [binary.minimum, ['i32', [-1, 5], [1, 2], [-1, 2]], ['u32', [WORDS - 1], [1], [1]]],
  remainder: [
    binary.remainder,
    ['f32', [7, -7, 7, -7, -0.5, 5, 6, 1e10, 3e38, 2 ** 100], [3, 3, -3, -3, 4, Infinity, 3, 7, 1e-3, 3], [1, 2, -2, -1, 3.5, 5, 0, 1e10 % 7, Math.fround(3e38) % Math.fround(1e-3), 1]],
    ['f32', [-1, 1, 0, Infinity, NaN, 1], [Infinity, 0, 0, 2, 2, NaN], [Infinity, NaN, NaN, NaN, NaN, NaN]],
    ['i32', [7, -7, 7, -7, 5, LEAST], [3, 3, -3, -3, 0, -1], [1, 2, -2, -1, 0, 0]],
    ['u32', [WORDS - 1, 5], [10, 0], [5, 0]],
  ],
  pow: [
    binary.pow,
    ['f32', [-2, -2, -2, 0, 0, 3, 2, -1.5, 5, 0, -2], [2, 3, -1, 0, 2, 0, -2.5, 0, 1, 1, 0.5], [4, -8, -0.5, 1, 0, 1, 2 ** -2.5, 1, 5, 0, NaN]],
  ],
  mulScalar: [(x, _, c) => ops.mulScalar(x, c), ['i32', [3, MOST], -2, [-6, 2]], ['u32', [3], WORDS - 1, [WORDS - 3]]],
  addScalar: [(x, _, c) => ops.addScalar(x, c), ['i32', [3, MOST], 1, [4, LEAST]]],
  eq: [eq, ['f32', [1, 2, NaN, 0], [1, 3, NaN, -0], [1, 0, 0, 1], 'bool'], ['bool', [0, 1], [1, 1], [0, 1], 'bool']],
  ne: [ops.ne, ['f32', [1, 2, NaN, 0], [1, 3, NaN, -0], [0, 1, 1, 0], 'bool'], ['f16', [1, 2], [1, 1], [0, 1], 'bool']],
  lt: [
    ops.lt,
    ['f32', [1, 2, 3, NaN, 0], [2, 2, 2, 0, NaN], [1, 0, 0, 0, 0], 'bool'],
    ['i32', [2 ** 24, 2 ** 24, -5], [2 ** 24 + 1, -5, 3], [1, 0, 1], 'bool'],
    ['u32', [1, WORDS - 1], [WORDS - 1, 1], [1, 0], 'bool'],
  ],
  le: [ops.le, ['f32', [1, 2, 3, NaN, 0], [2, 2, 2, 0, NaN], [1, 1, 0, 0, 0], 'bool']],
  gt: [gt, ['f32', [1, 2, 3, NaN, 0], [2, 2, 2, 0, NaN], [0, 0, 1, 0, 0], 'bool'], ['bf16', [2, 1], [1, 2], [1, 0], 'bool']],
  ge: [ops.ge, ['f32', [1, 2, 3, NaN, 0], [2, 2, 2, 0, NaN], [0, 1, 1, 0, 0], 'bool']],
  logicalAnd: [logicalAnd, ['f32', [0, 1, NaN, -0], [1, 2, 3, 4], [0, 1, 1, 0], 'bool'], ['i32', [LEAST], [1], [1], 'bool']],
  logicalOr: [ops.logicalOr, ['f32', [0, 0, NaN, -0], [0, 2, 0, 0], [0, 1, 1, 0], 'bool']],
  logicalNot: [ops.logicalNot, ['f16', [0, 2, NaN, -0], 0, [1, 0, 0, 1], 'bool'], ['bool', [0, 1], 0, [1, 0], 'bool']],
  isnan: [isnan, ['f32', [NaN, 1, Infinity], 0, [1, 0, 0], 'bool'], ['bf16', [NaN, 1], 0, [1, 0], 'bool']],
  isinf: [isinf, ['f32', [NaN, 1, Infinity, -Infinity], 0, [0, 0, 1, 1], 'bool'], ['f16', [-Infinity], 0, [1], 'bool']],
  where: [
    (x, other) => ops.where(gt(x, other), x, other),
    ['i32', [1, 5], [4, 2], [4, 5]],
    ['u32', [1, WORDS - 1], [4, 2], [4, WORDS - 1]],
    ['f16', [1, 5, 2.5], [4, 2, 0], [4, 5, 2.5]],
  ],
  maskedFill: [(x, _, c) => ops.maskedFill(x, isnan(cast(x, 'f32')), c), ['bf16', [1, NaN], -2, [1, -2]]],
  leakyRelu: [(x, _, c) => ops.leakyRelu(x, c), ['f32', [-2, 3, 0, NaN, -Infinity], 0.5, [-1, 3, 0, NaN, -Infinity]]],
  elu: [
    (x, _, c) => ops.elu(x, c),
    ['f32', [-1, 2, -1e-4, -Infinity, NaN], 2, [2 * Math.expm1(-1), 2, 2 * Math.expm1(-1e-4), -2, NaN]],
  ],
  softsign: [unary.softsign, ['f32', [-3, 1, 3e38, Infinity], 0, [-0.75, 0.5, 1, NaN]]],
  mish: [
    unary.mish,
    ['f32', [-30, -2, 0.5, 40], 0, [-30, -2, 0.5, 40].map((v) => v * Math.tanh(Math.log1p(Math.exp(v))))],
  ],
  hardswish: [unary.hardswish, ['f32', [-4, -3, -1.5, 1.5, 3, 5], 0, [0, 0, -0.375, 1.125, 3, 5]]],
};

for (const [name, [run, ...cases]] of Object.entries(VALUES)) {
  test(`${name} has the values of torch`, async () => {
    for (const backend of backends) {
      for (const [dtype, x, other, want, gives = dtype] of cases) {
        const second = fromData(backend, Array.isArray(other) ? other : x, [x.length], dtype);
        const y = run(fromData(backend, x, [x.length], dtype), second, other as number);
        assert.is(y.dtype, gives);
        const got = isPlain(gives) ? await y.data() : await cast(y, 'f32').data();
        want.forEach((w, i) => {
          const right = Object.is(got[i] + 0, w + 0) || Math.abs(got[i] - w) <= 2e-6 * Math.abs(w);
          assert.ok(right, `${backend.kind} ${dtype} ${name}(${x[i]}, ${Array.isArray(other) ? other[i] : other}) is ${got[i]}, expected ${w}`);
        });
      }
    }
  });
}

test('operands of other dtypes than an op takes are named', () => {
  const of = (dtype: DType) => fill(reference, [2], 1, dtype);
  const refused: [() => Tensor, RegExp][] = [
    [() => add(of('i32'), of('f32')), /add: a is i32 and b is f32, expected one dtype, or floats; convert with cast\(\)/],
    [() => ops.lt(of('i32'), of('u32')), /lt: a is i32 and b is u32/],
    [() => ops.pow(of('i32'), of('i32')), /pow: a has dtype i32, expected f32 or f16 or bf16/],
    [() => add(of('bool'), of('bool')), /add: a has dtype bool/],
    [() => unary.exp(of('i32')), /exp: x has dtype i32/],
    [() => ops.where(of('bool'), of('i32'), of('f32')), /where: a is i32 and b is f32/],
    [() => rand(reference, [2], 1, 'i32'), /rand: .*i32/],
  ];
  for (const [run, says] of refused) throws(run, DTypeError, says);
  throws(() => mul(fill(reference, [3, 4], 0), fill(reference, [3], 0)), ShapeError, /mul: shapes \[3, 4\] and \[3\]/);
  assert.is(ops.where(of('bool'), of('f16'), of('bf16')).dtype, 'f32');
});

test('random numbers are the same on every backend, uniform or normal, others for another seed', async () => {
  const size = 20000;
  for (const dtype of FLOATS) {
    const of = async (draw: typeof rand, backend: Backend, seed: number) => [
      ...(await cast(draw(backend, [size], seed, dtype), 'f32').data()),
    ];
    const drawn = await of(rand, reference, 2 ** 40 + 1);
    assert.equal(await of(rand, gpu, 2 ** 40 + 1), drawn, dtype);
    assert.ok(drawn.every((v) => v >= 0 && v < 1), dtype);
    const other = await of(rand, reference, 1);
    const mean = (values: number[]) => values.reduce((a, b) => a + b) / size;
    const moment = (values: number[], center: number, k: number) => mean(values.map((v) => (v - center) ** k));
    assert.ok(Math.abs(mean(drawn) - 0.5) < 0.01 && Math.abs(moment(drawn, 0.5, 2) - 1 / 12) < 0.002, dtype);
    assert.ok(Math.abs(mean(drawn.map((v, i) => (v - 0.5) * (other[i] - 0.5)))) < 0.003, 'seeds have nothing in common');
    const normal = await of(randn, reference, 7);
    assertNear([Float64Array.from(await of(randn, gpu, 7))], [Float64Array.from(normal)], dtype, dtype === 'f32' ? 1e-6 : 1e-3);
    const moments = [1, 2, 3, 4].map((k) => moment(normal, 0, k));
    [0, 1, 0, 3].forEach((w, k) => assert.ok(Math.abs(moments[k] - w) < 0.04 * (k + 1), `${dtype}: moment ${k + 1} is ${moments[k]}`));
  }
});

test('half and bfloat16 decode every pattern', async () => {
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  for (const [dtype, decode] of [['f16', fromHalf], ['bf16', fromBfloat]] as const) {
    const got = await cast(fromData(gpu, bits, [65536], dtype), 'f32').data();
    for (let i = 0; i < 65536; i++) {
      const want = decode(i);
      // Drivers may flush numbers below the least normal f32, which only bfloat16 has.
      const same = Object.is(got[i], want) || (Number.isNaN(want) && Number.isNaN(got[i])) ||
        (Math.abs(want) < 2 ** -126 && got[i] === 0);
      assert.ok(same, `${dtype} ${i}: ${got[i]} against ${want}`);
    }
  }
});

test('half and bfloat16 encode with rounding to even, subnormals and infinities', async () => {
  const edge = [0, -0, 1, 65504, 65519.9, 65520, 1e9, -1e9, 2 ** -14, 2 ** -24, 2 ** -25, 2 ** -25 * 1.01, 6e-8, 1e-7];
  const between = [1 + 2 ** -11, 1 + 3 * 2 ** -11, 2 ** -14 - 2 ** -25, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 / 0, -1 / 0];
  const values = Float32Array.from([...edge, ...between, ...random(2001, 5, 300), ...random(500, 6, 1e-4)]);
  for (const [dtype, encode] of [['f16', toHalf], ['bf16', toBfloat]] as const) {
    const got = await cast(fromData(gpu, values, [values.length]), dtype).data();
    assert.equal([...got], Array.from(values, encode), dtype);
  }
});

test('casts between all kinds agree, and floats carry gradients', async () => {
  const data: Record<ElementDType, HostArray | number[]> = {
    f32: [-2.7, -0.5, 0, 0.49, 3.99, 1e6, 250.5],
    f16: Uint16Array.from([-2.7, -0.5, 0, 0.49, 3.99, 6e4, 250.5], toHalf),
    bf16: Uint16Array.from([-2.7, -0.5, 0, 0.49, 3.99, 1e6, 250.5], toBfloat),
    i32: [-7, -1, 0, 1, 2, 99999, 2147483647],
    u32: [0, 1, 2, 3, 4, 99999, 4294967295],
    bool: [0, 1, 1, 0, 1, 0, 1],
  };
  const kinds = Object.keys(data) as ElementDType[];
  for (const from of kinds) {
    for (const to of kinds) {
      const run = async (k: number) => [...(await cast(fromData(backends[k], data[from], [7], from), to).data())];
      assert.equal(await run(1), await run(0), `${from} to ${to}`);
    }
  }
  for (const to of ['f16', 'bf16'] as const) {
    await agree((t) => cast(cast(t(5, 3), to), 'f32'), to, 0);
  }
});

test('fill, arange, clone and copy_', async () => {
  for (const backend of backends) {
    const of = async (t: Tensor) => [...(await t.data())];
    assert.equal(await of(fill(backend, [3], -2, 'i32')), [-2, -2, -2]);
    assert.equal(await of(fill(backend, [3], 1.5, 'f16')), Array(3).fill(toHalf(1.5)));
    assert.equal(await of(fill(backend, [5], -2.5)), Array(5).fill(-2.5));
    assert.equal(await of(ops.arange(backend, 7, { start: 1, step: 2 })), [1, 3, 5]);
    assert.equal(await of(ops.arange(backend, 0, { start: 1, step: -0.5, dtype: 'f32' })), [1, 0.5]);
    const x = fromData(backend, random(7, 1), [7]);
    const y = clone(x);
    assert.equal(await of(ops.zerosLike(y)), Array(7).fill(0));
    ops.copy_(y, ops.mulScalar(x, 3));
    assertNear([await y.data()], [random(7, 1).map((v) => 3 * v)], backend.kind, 1e-6);
    const half = fromData(backend, [1, 2, 3], [3], 'bf16');
    assert.equal(await of(clone(half)), [1, 2, 3].map(toBfloat));
    throws(() => ops.copy_(x, half), ShapeError);
    throws(() => ops.copy_(fill(backend, [3], 0), half), DTypeError);
  }
});

test('dropout drops the same elements on every backend, in backward too', async () => {
  const ones = new Float32Array(9999).fill(1);
  for (const p of [0.1, 0.5, 1]) {
    for (const key of [null, 0xfedcba98]) {
      const run: Run = (t) =>
        ops.dropout(t.leaf(ones, [101, 99]), p, 2 ** 40 + 3, key === null ? undefined : t.values([key], [], 'u32'));
      const [y, dx] = await evaluate(reference, run);
      assertNear(await evaluate(gpu, run), [y, dx], `p ${p}`, 1e-6);
      const kept = y.filter((v: number) => v !== 0).length;
      assert.ok(Math.abs(kept / 9999 - (1 - p)) < 0.015, `${kept} kept of 9999 at p ${p}`);
      assert.ok(y.every((v: number, i: number) => (v === 0) === (dx[i] === 0)));
      assert.ok(y.every((v: number) => v === 0 || Math.abs(v - 1 / (1 - p)) < 1e-6));
    }
  }
});

test('dropout differs by seed and by key, and is not periodic', async () => {
  const ones = fromData(reference, new Float32Array(4096).fill(1), [4096]);
  const keys = [1, 2, 2 ** 32 - 1].map((key) => scalar(reference, key, 'u32'));
  const drawn = [[1], [2], [2 ** 32 + 1], ...keys.map((key) => [1, key] as const), [2, keys[0]]] as const;
  const masks = await Promise.all(drawn.map(([seed, key]) => ops.dropout(ones, 0.5, seed, key).data()));
  const same = (a: HostArray, b: HostArray) => a.filter((v: number, i: number) => v === b[i]).length / a.length;
  for (const [i, mask] of masks.entries()) {
    for (const other of masks.slice(0, i)) assert.ok(Math.abs(same(mask, other) - 0.5) < 0.05);
  }
  for (const lag of [1, 2, 64, 256]) {
    assert.ok(Math.abs(same(masks[0].slice(lag), masks[0].slice(0, -lag)) - 0.5) < 0.05, `lag ${lag}`);
  }
  assert.is(ops.dropout(ones, 0, 1), ones);
});

test.run();
