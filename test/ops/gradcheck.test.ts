import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ReferenceBackend } from '../../engine/backends/reference/reference.ts';
import { definedOps } from '../../engine/op.ts';
import { ROWS } from '../cases/index.ts';
import { checkDifferences } from '../support/agree.ts';
import { Inputs } from '../support/inputs.ts';
import { readOpCases } from '../support/golden-ops.ts';
import { readTensors } from '../support/golden-types.ts';
import { opNames } from '../support/support-table.ts';

/** Elements of each input that are moved, and the largest relative error. */
const LIMITS = { samples: 10, most: 2e-5 };

const backend = new ReferenceBackend({ double: true });
const check = suite('gradients in f64 against central differences');

/** Names of the ops whose backward ran. */
const walked = new Set<string>();
for (const op of definedOps() as unknown as { name: string; backward?: (...args: unknown[]) => unknown }[]) {
  const own = op.backward;
  if (!own) continue;
  op.backward = (...args) => {
    walked.add(op.name);
    return own.apply(op, args);
  };
}

for (const [op, { cases = [] }] of Object.entries(ROWS)) {
  for (const [i, [sizes, run, { grid } = {}]] of cases.entries()) {
    check(`${op} ${i + 1}`, async () => {
      await checkDifferences(new Inputs(backend), run, { sizes, grid, ...LIMITS });
      assert.is(backend.memory.live, 0, 'live bytes after the check');
    });
  }
}

check('every op with a backward has a case', () => {
  const names = new Set(definedOps().flatMap(({ name, backward }) => (backward ? [name] : [])));
  assert.ok(names.size > 50);
  assert.equal(opNames().filter((name) => names.has(name) && !walked.has(name)), [], 'add a case to test/cases');
});

const tensors = await readTensors('test/golden/ops', 'tensors');
for (const { id, op, attrs, inputs, in_grads } of readOpCases('test/golden/ops')) {
  // A loss without a gradient to its second input stops it on purpose: differences would see through.
  const stopped = /no gradient to the second input/.test(String(attrs.note ?? ''));
  const moved = in_grads.map((name, i) => name !== null && !(stopped && i === 1));
  if (!moved.includes(true)) continue;
  check(id, () =>
    checkDifferences(
      new Inputs(backend),
      (t) => {
        const given = inputs.map((name, i) => {
          const { data, shape, dtype } = tensors.get(name)!;
          return moved[i] ? t.leaf(data, shape) : t.values(data, shape, dtype);
        });
        return ROWS[op].golden!(given, attrs);
      },
      LIMITS,
    ),
  );
}

check.run();
