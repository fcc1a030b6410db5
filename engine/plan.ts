import { type Backend, elements, type Spec, specOf } from './backend.ts';
import { expectSpec } from './dtype.ts';
import { ShapeError } from './errors.ts';
import type { AnyOp } from './op.ts';

/** An operand while an op is planned: its spec, and which of the call's buffers it will be. */
export interface Slot extends Spec {
  readonly size: number;
  readonly slot: number;
}

/** An op made ready for operands of certain specs: everything of a call but its buffers. */
export interface Prepared {
  readonly op: AnyOp;
  readonly attrs: unknown;
  /** Specs of the operands, as `Operands.flat` has them. */
  readonly inputs: readonly (Spec | undefined)[];
  readonly outputs: readonly (Spec | undefined)[];
  /** The backend's part; null where there is nothing to do. */
  readonly plan: unknown;
}

/** Plans kept at most; past it the oldest half goes. */
const MOST = 8192;

/**
 * Plans by op, specs and attributes, for one device: an op that meets the same shapes again is not checked and planned
 * anew. Attributes must be plain data, of numbers, strings, booleans, arrays and objects of these.
 */
export class PlanCache {
  private readonly plans = new Map<AnyOp, { latest: Prepared | null; readonly all: Map<string, Prepared> }>();
  private count = 0;

  constructor(private readonly backend: Backend) {}

  /** @throws what the op's shape rule throws, or the backend of what it cannot run */
  prepare(op: AnyOp, inputs: readonly (Spec | undefined)[], attrs: unknown): Prepared {
    let own = this.plans.get(op);
    if (!own) this.plans.set(op, (own = { latest: null, all: new Map() }));
    // Layers repeat: mostly it is the same as the time before, which is told sooner than by a key.
    if (own.latest && fits(own.latest, inputs, attrs)) return own.latest;
    const key = keyOf(inputs, attrs);
    let found = own.all.get(key);
    if (!found) {
      found = this.plan(op, inputs.map(specOf), attrs);
      if (this.count >= MOST) this.dropOldest();
      own.all.set(key, found);
      this.count++;
    }
    return (own.latest = found);
  }

  private plan(op: AnyOp, inputs: readonly (Spec | undefined)[], attrs: unknown): Prepared {
    const missing = op.takes.missing(inputs);
    if (missing !== undefined) throw new ShapeError(`${op.name}: ${missing} is missing`);
    const outputs = op.gives.flat<Spec>(op.shape(op.takes.named(inputs), attrs)).map(specOf);
    while (outputs.length > 0 && outputs.at(-1) === undefined) outputs.pop();
    for (const output of outputs) if (output) expectSpec(output);
    // Where all that comes out is empty there is nothing to compute, and no kernel need think of it.
    const made = outputs.filter((spec) => spec !== undefined);
    const empty = made.length > 0 && made.every(({ shape }) => elements(shape) === 0);
    const plan = empty ? null : this.backend.plan(op, inputs, outputs, attrs);
    return { op, attrs, inputs, outputs, plan };
  }

  private dropOldest(): void {
    for (const own of this.plans.values()) {
      own.latest = null;
      let drop = Math.ceil(own.all.size / 2);
      for (const [key, { plan }] of own.all) {
        if (drop-- <= 0) break;
        own.all.delete(key);
        this.count--;
        if (plan !== null) this.backend.forget?.(plan);
      }
    }
  }
}

/** The operands of a call as slots, numbered in order. */
export function slotsOf(inputs: readonly (Spec | undefined)[], outputs: readonly (Spec | undefined)[]) {
  const slot = (spec: Spec | undefined, i: number): Slot | undefined =>
    spec && { shape: spec.shape, dtype: spec.dtype, size: elements(spec.shape), slot: i };
  return { inputs: inputs.map(slot), outputs: outputs.map((spec, i) => slot(spec, inputs.length + i)) };
}

/** Whether a plan is for these specs and attributes. */
function fits({ inputs: own, attrs: ownAttrs }: Prepared, inputs: readonly (Spec | undefined)[], attrs: unknown): boolean {
  if (own.length !== inputs.length) return false;
  for (let i = 0; i < own.length; i++) {
    const [a, b] = [own[i], inputs[i]];
    if (a === b) continue;
    if (!a || !b || a.dtype !== b.dtype || a.shape.length !== b.shape.length) return false;
    for (let d = 0; d < a.shape.length; d++) if (a.shape[d] !== b.shape[d]) return false;
  }
  return alike(ownAttrs, attrs);
}

/** Whether plain data is equal, NaN to itself and −0 not to 0. */
function alike(a: unknown, b: unknown): boolean {
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return Object.is(a, b);
  let names = 0;
  for (const name in a) {
    names++;
    if (!alike((a as Record<string, unknown>)[name], (b as Record<string, unknown>)[name])) return false;
  }
  for (const _ in b) names--;
  return names === 0 && Array.isArray(a) === Array.isArray(b);
}

function keyOf(inputs: readonly (Spec | undefined)[], attrs: unknown): string {
  let key = '';
  for (const input of inputs) {
    if (!input) {
      key += '-;';
      continue;
    }
    key += input.dtype;
    for (const d of input.shape) key += `,${d}`;
    key += ';';
  }
  return key + textOf(attrs);
}

/** Plain data as text; unlike JSON, it tells NaN, the infinities and −0 from one another. */
function textOf(value: unknown): string {
  if (typeof value === 'number') return value === 0 && 1 / value < 0 ? '-0' : `${value}`;
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value !== 'object' || value === null) return `${typeof value} ${String(value)}`;
  let text = Array.isArray(value) ? '[' : '{';
  for (const name in value) text += `${name}:${textOf((value as Readonly<Record<string, unknown>>)[name])},`;
  return text;
}
