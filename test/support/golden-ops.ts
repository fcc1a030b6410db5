import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../../engine/backend.ts';
import { scope } from '../../engine/scope.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { backwardFrom } from '../../ops/index.ts';
import type { Row } from '../cases/case.ts';
import { ROWS } from '../cases/index.ts';
import { type Check, type HostTensor, readTensors } from './golden-types.ts';

/** One golden case as `cases.json` has it. */
export interface OpCase {
  readonly id: string;
  readonly op: string;
  readonly attrs: Record<string, unknown>;
  readonly inputs: string[];
  readonly outputs: string[];
  readonly out_grads: (string | null)[];
  readonly in_grads: (string | null)[];
  readonly rtol: number;
  readonly atol: number;
}

/** Replays one case: outputs, then gradients. */
export async function replayOp(backend: Backend, op: OpCase, tensors: Map<string, HostTensor>): Promise<Check> {
  const call = ROWS[op.op]?.golden;
  if (!call) return { id: op.id, passed: false, error: `unknown op ${op.op}` };
  try {
    const worst = await compareCase(backend, op, tensors, call);
    return { id: op.id, passed: worst.excess <= 0, error: worst.text };
  } catch (error) {
    return { id: op.id, passed: false, error: (error as Error).message.split('\n')[0] };
  }
}

interface Worst {
  excess: number;
  text: string;
}

async function compareCase(
  backend: Backend,
  op: OpCase,
  tensors: Map<string, HostTensor>,
  call: NonNullable<Row['golden']>,
): Promise<Worst> {
  const upload = (name: string): Tensor => {
    const host = tensors.get(name);
    if (!host) throw new Error(`tensor ${name} is not in tensors.safetensors`);
    return fromData(backend, host.data, host.shape, host.dtype);
  };
  const made = scope(() => {
    const inputs = op.inputs.map(upload);
    op.in_grads.forEach((name, i) => {
      if (name) inputs[i].requiresGrad = true;
    });
    const outputs = [call(inputs, op.attrs)].flat() as Tensor[];
    const wanted = op.out_grads.flatMap((name, i) => (name && outputs[i].requiresGrad ? [i] : []));
    backwardFrom(
      wanted.map((i) => outputs[i]),
      wanted.map((i) => upload(op.out_grads[i]!)),
    );
    return { inputs, outputs, grads: inputs.map((input) => input.grad) };
  });
  const worst: Worst = { excess: -Infinity, text: '' };
  const compare = async (label: string, tensor: Tensor | null, name: string) => {
    const host = tensors.get(name)!;
    const zero = { shape: host.shape, data: new Float32Array(host.data.length) };
    const got = tensor ? { shape: tensor.shape, data: await tensor.data() } : zero;
    if (got.shape.join() !== host.shape.join()) throw new Error(`${label} has shape [${got.shape}], not [${host.shape}]`);
    note(worst, label, got.data, host.data, op);
  };
  for (const [i, name] of op.outputs.entries()) await compare(`out${i}`, made.outputs[i], name);
  for (const [i, name] of op.in_grads.entries()) if (name) await compare(`grad${i}`, made.grads[i], name);
  for (const tensor of [...made.inputs, ...made.outputs]) tensor.dispose();
  return worst;
}

function note(worst: Worst, label: string, got: ArrayLike<number>, want: ArrayLike<number>, op: OpCase): void {
  for (let i = 0; i < want.length; i++) {
    const difference = got[i] === want[i] ? 0 : Math.abs(got[i] - want[i]);
    const excess = Number.isNaN(difference) ? Infinity : difference - (op.atol + op.rtol * Math.abs(want[i]));
    if (excess > worst.excess) {
      worst.excess = excess;
      worst.text = `${label}[${i}] ${got[i]} against ${want[i]}, off by ${difference.toExponential(2)}`;
    }
  }
}

/** The cases of `ops/`. */
export function readOpCases(folder: string): OpCase[] {
  return JSON.parse(readFileSync(join(folder, 'cases.json'), 'utf8')) as OpCase[];
}

/** Replays every case of `ops/`. */
export async function* replayOps(folder: string, backend: Backend): AsyncGenerator<Check> {
  const tensors = await readTensors(folder, 'tensors');
  for (const op of readOpCases(folder)) yield replayOp(backend, op, tensors);
}
