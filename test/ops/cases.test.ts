import { readFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import { type Backend, elements } from '../../engine/backend.ts';
import { WasmBackend } from '../../engine/backends/wasm/wasm.ts';
import { DTypeError, MatvlmError } from '../../engine/errors.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { reshape, slice } from '../../ops/index.ts';
import type { Run, Sizes } from '../cases/case.ts';
import { ROWS } from '../cases/index.ts';
import { movement } from '../cases/movement.ts';
import { assertNear, type Result, resultsOf } from '../support/agree.ts';
import { Inputs, random } from '../support/inputs.ts';
import { suiteOnBackends } from '../support/suite.ts';
import { opNames, supportTable, watch } from '../support/support-table.ts';

const { test, backends, reference, others, wasms, wasm, gpu } = await suiteOnBackends('every case of every op');
const seen = backends.map(watch);

/** Results with their shapes as lists; or what was thrown. */
async function outcome(inputs: Inputs, run: Run, sizes: Sizes): Promise<unknown> {
  try {
    return (await resultsOf(inputs, run, sizes)).map(({ shape, data }) => [shape, [...data]]);
  } catch (error) {
    inputs.dispose();
    if (!(error instanceof MatvlmError)) throw error;
    return `${error.name}: ${error.message}`;
  }
}

function assertAlike(got: unknown, want: unknown, label: string): void {
  if (!Array.isArray(got) || !Array.isArray(want)) return assert.equal(got, want, label);
  assert.is(got.length, want.length, label);
  want.forEach((w, i) => {
    if (typeof w !== 'number') return assertAlike(got[i], w, label);
    const near = Object.is(got[i] + 0, w + 0) || Math.abs(got[i] - w) <= 1e-5 * Math.max(1, Math.abs(w));
    assert.ok(near, `${label}: ${got[i]}, expected ${w}`);
  });
}

/** A number that f32, f16 and bf16 hold alike. */
const inEighths = (v: number) => Math.max(-4, Math.min(4, Math.round(v * 8) / 8));

/** Inputs stored in 16 bits, or the same in f32, each behind a slice of a leaf twice its size. */
class Halves extends Inputs {
  protected override leaf(data: Float32Array, shape: readonly number[]): Tensor {
    const twice = new Float32Array(2 * data.length);
    twice.set(data.map(inEighths), data.length);
    return reshape(slice(super.leaf(twice, [2, ...shape], this.dtype), 0, 1), shape);
  }

  override gradientOf({ backend, size, shape, dtype }: Tensor, i: number): Tensor {
    return fromData(backend, random(size, i + 101).map(inEighths), shape, dtype);
  }

  constructor(backend: Backend, private readonly dtype: 'f32' | 'f16' | 'bf16') {
    super(backend);
  }
}

/** Fails unless each number is within `most` of the other, or of the largest where that is less; NaN is NaN. */
function assertWithin(got: Result, want: Result, most: number, label: string): void {
  const scale = Array.from(want.data, Math.abs).filter(Number.isFinite).reduce((a, b) => Math.max(a, b), 1e-3) / 4;
  got.data.forEach((g: number, i: number) => {
    const w = want.data[i];
    const near = Math.abs(g - w) <= most * Math.max(scale, Math.abs(w));
    assert.ok(near || Object.is(g, w), `${label}: [${i}] is ${g}, expected ${w}`);
  });
}

/** Fails unless a call with leaves in 16 bits is refused, or gives what it does in f32. @returns whether it is taken */
async function inHalves(
  backend: Backend,
  dtype: 'f16' | 'bf16',
  run: Run,
  sizes: Sizes,
  want: readonly Result[],
  most: number,
  label: string,
): Promise<boolean> {
  const inputs = new Halves(backend, dtype);
  try {
    const got = await resultsOf(inputs, run, sizes);
    const gradients = got.filter(({ gradient }) => gradient);
    for (const each of gradients) assert.is(each.dtype, dtype, label);
    got.forEach((each, k) => assertWithin(each, want[k], most, `${label}: result ${k}`));
    return gradients.length > 0;
  } catch (error) {
    inputs.dispose();
    if (error instanceof DTypeError && new RegExp(`has dtype ${dtype}, expected`).test(error.message)) return false;
    throw error;
  }
}

const small = (sizes: Sizes): boolean => elements(Object.values(sizes)) < 1000;

/** Ops with a gradient in 16 bits. */
const taken = new Set<string>();

for (const [op, { cases = [] }] of Object.entries(ROWS)) {
  for (const [i, [sizes, run, { at = [], wasmAt = [], most = 1e-5, rounds = 1 } = {}]] of cases.entries()) {
    const name = `${op}${i > 0 ? ` ${i + 1}` : ''}`;

    test(`${name} is the same on every backend`, async () => {
      for (const now of [sizes, ...at, ...wasmAt]) {
        const want = (await resultsOf(new Inputs(reference), run, now)).map(({ data }) => data);
        for (const backend of wasmAt.includes(now) ? wasms : others) {
          const got = await resultsOf(new Inputs(backend), run, now);
          assertNear(got.map(({ data }) => data), want, `${backend.description} ${JSON.stringify(now)}`, most);
        }
      }
    });

    test(`${name} has the same bits twice on a GPU`, async () => {
      const once = () => resultsOf(new Inputs(gpu), run, at.at(-1) ?? sizes);
      assert.equal(await once(), await once());
    });

    test(`${name} with each of its dimensions at 0`, async () => {
      for (const empty of Object.keys(sizes)) {
        const now = { ...sizes, [empty]: 0 };
        const want = await outcome(new Inputs(reference), run, now);
        for (const backend of others) {
          assertAlike(await outcome(new Inputs(backend), run, now), want, `${backend.kind} with ${empty} = 0`);
        }
      }
    });

    test(`${name} refuses 16 bits or is right in them, gradients in their dtype`, async () => {
      const moves = op in movement;
      for (const now of moves ? [sizes, ...at.filter(small)] : [sizes]) {
        const want = await resultsOf(new Halves(reference, 'f32'), run, now);
        for (const [dtype, most] of [['f16', 2 ** -8], ['bf16', 2 ** -6]] as const) {
          for (const backend of [reference, wasm, ...(moves ? [gpu] : [])]) {
            const label = `${backend.kind} ${dtype} ${JSON.stringify(now)}`;
            if (await inHalves(backend, dtype, run, now, want, most * rounds, label)) taken.add(op);
          }
        }
      }
    });
  }
}

/** Those that have no gradient in any case: of whole numbers, in place, or of decoding. */
const NO_GRADIENT = [
  ...['adamw', 'all', 'any', 'arange', 'argmax', 'argmin', 'attention_step', 'causal_conv1d_step', 'choose_token', 'copy_'],
  ...['eq', 'fill', 'from_data', 'ge', 'grad_norm', 'gt', 'increment', 'isnan', 'le', 'linear_sum', 'linears'],
  ...['logical_and', 'logical_not', 'logical_or', 'lt', 'ne', 'one_hot', 'rand', 'randn', 'reshape', 'ssd_step'],
];

test('all ops that have gradients have them in 16 bits, and nothing is left behind', () => {
  assert.equal(Object.keys(ROWS).filter((op) => !taken.has(op)).sort(), NO_GRADIENT);
  for (const backend of backends) assert.is(backend.memory.live, 0, backend.description);
});

test('every op has a case', () => {
  for (const names of seen) assert.equal([...names].sort(), opNames(), 'add one to test/cases');
});

test('docs/support.md says what runs where', async () => {
  const table = await supportTable(await WasmBackend.create());
  if (process.argv.includes('--print')) console.log(table);
  assert.ok(readFileSync('docs/support.md', 'utf8').includes(table), 'run this test with --print and paste the table');
});

test.run();
