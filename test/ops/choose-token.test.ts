import * as assert from 'uvu/assert';
import type { Backend } from '../../engine/backend.ts';
import { fromData, type Tensor, update } from '../../engine/tensor.ts';
import { chooseToken_, increment_ } from '../../ops/index.ts';
import { Random } from '../../models/nn/random.ts';
import { throws } from '../support/expect.ts';
import { suiteOnBackends } from '../support/suite.ts';

const { test, backends } = await suiteOnBackends('choosing tokens');

type Options = NonNullable<Parameters<typeof chooseToken_>[2]>;

/** Tokens for rows of logits, one for each draw. */
async function choose(backend: Backend, rows: readonly number[][], draws: readonly number[], options: Options, seen?: number[]) {
  const [b, v] = [rows.length, rows[0].length];
  const tensors: Tensor[] = [];
  const of = (data: readonly number[], shape: number[], dtype?: 'i32' | 'u32') => {
    tensors.push(fromData(backend, data, shape, dtype));
    return tensors.at(-1)!;
  };
  const token = of(new Array<number>(b).fill(-5), [b, 1], 'i32');
  const position = of([0], [1], 'i32');
  const known = seen && of(rows.flatMap(() => seen), [b, v], 'u32');
  const inputs = { logits: of(rows.flat(), [b, v]), draws: of(rows.flatMap(() => draws), [b, draws.length]), position };
  const chosen: number[][] = rows.map(() => []);
  for (const _ of draws) {
    if (known) update(known, rows.flatMap(() => seen!));
    chooseToken_(token, { ...inputs, seen: known }, options);
    increment_(position);
    (await token.data()).forEach((id, row) => chosen[row].push(id));
  }
  const remembered = known && [...(await known.data())];
  for (const t of tensors) t.dispose();
  return { chosen, remembered };
}

const LOGITS = [0, 2, -1, 1, -8];
const softmax = (logits: number[]) => {
  const e = logits.map(Math.exp);
  const sum = e.reduce((a, b) => a + b);
  return e.map((x) => x / sum);
};
const even = Array.from({ length: 60 }, (_, i) => (i + 0.5) / 60);

for (const backend of backends) {
  const shares = async (options: Options, seen?: number[]) => {
    const counts = LOGITS.map(() => 0);
    for (const id of (await choose(backend, [LOGITS], even, options, seen)).chosen[0]) counts[id]++;
    return counts.map((c) => c / even.length);
  };
  const near = (got: number[], want: number[]) =>
    got.forEach((g, i) => assert.ok(Math.abs(g - want[i]) < 0.02, `${backend.kind}: ${got} against ${want}`));

  test(`${backend.kind}: temperature 0 is greedy, 1 draws by the probabilities, 2 flattens them`, async () => {
    assert.equal(await shares({}), [0, 1, 0, 0, 0]);
    near(await shares({ temperature: 1 }), softmax(LOGITS));
    near(await shares({ temperature: 2 }), softmax(LOGITS.map((x) => x / 2)));
  });

  test(`${backend.kind}: top-k and top-p keep the likeliest`, async () => {
    const [second, first] = softmax([1, 2]);
    near(await shares({ temperature: 1, topK: 2 }), [0, first, 0, second, 0]);
    near(await shares({ temperature: 1, topP: 0.7 }), [0, first, 0, second, 0]);
    assert.equal(await shares({ temperature: 1, topP: 0.1 }), [0, 1, 0, 0, 0]);
    near(await shares({ temperature: 1, topK: 3, topP: 0.8 }), [0, first, 0, second, 0]);
  });

  test(`${backend.kind}: the repetition penalty weakens what was seen, and remembers what was chosen`, async () => {
    near(await shares({ temperature: 1, repetitionPenalty: 2 }, [0, 1, 1, 0, 0]), softmax([0, 1, -2, 1, -8]));
    const { chosen, remembered } = await choose(backend, [LOGITS], [0.5], { repetitionPenalty: 4 }, [0, 1, 0, 0, 0]);
    assert.equal([chosen, remembered], [[[3]], [0, 1, 0, 1, 0]]);
  });

  test(`${backend.kind}: of equals the first is greedy's, and all have their share; rows are apart`, async () => {
    const ties = [1, 3, 3, -0, 3, 0];
    assert.equal((await choose(backend, [ties, [...ties].reverse()], [0.5], {})).chosen, [[1], [1]]);
    const { chosen } = await choose(backend, [ties, LOGITS.concat(9)], [0.1, 0.4, 0.9], { temperature: 1, topK: 2 });
    assert.equal(chosen, [[1, 1, 2], [5, 5, 5]], 'the third of equals is beyond the two that are kept');
  });

  test(`${backend.kind}: a logit that is not finite gives -1`, async () => {
    for (const odd of [NaN, Infinity, -Infinity]) {
      for (const temperature of [0, 1]) {
        assert.equal((await choose(backend, [[1, 2, odd], [1, 2, 0]], [0.1], { temperature })).chosen, [[-1], [1]]);
      }
    }
  });
}

test('every backend chooses what the reference chooses, of many', async () => {
  const random = new Random(5);
  const logits = Array.from({ length: 1500 }, () => random.normal() * 2);
  const draws = Array.from({ length: 8 }, () => random.uniform(0, 1));
  for (const options of [{ temperature: 0.7 }, { temperature: 1, topK: 40, topP: 0.9 }, { temperature: 1.5, topP: 0.5 }]) {
    const [want, ...others] = await Promise.all(backends.map((b) => choose(b, [logits], draws, options)));
    for (const got of others) assert.equal(got.chosen, want.chosen);
    assert.ok(new Set(want.chosen[0]).size > 3);
  }
});

test('what does not fit is refused by name', () => {
  const [backend] = backends;
  const of = (shape: number[], dtype: 'f32' | 'i32' | 'u32' = 'f32') =>
    fromData(backend, new Array<number>(shape.reduce((a, b) => a * b, 1)).fill(0), shape, dtype);
  const token = of([1, 1], 'i32');
  const refused = (run: () => void, why: RegExp) => throws(run, Error, why);
  refused(() => chooseToken_(of([2, 1], 'i32'), { logits: of([1, 4]) }), /chooseToken_.*token/);
  refused(() => chooseToken_(token, { logits: of([4]) }), /chooseToken_.*logits/);
  refused(() => chooseToken_(token, { logits: of([1, 4]) }, { temperature: 1 }), /chooseToken_.*draws/);
  refused(() => chooseToken_(token, { logits: of([1, 4]) }, { repetitionPenalty: 2 }), /chooseToken_.*seen/);
  refused(() => increment_(of([1])), /increment_: x has dtype f32/);
});

test.run();
