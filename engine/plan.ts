import { type Backend, elements, type Spec } from './backend.ts';
import { expectSpec } from './dtype.ts';
import { ShapeError } from './errors.ts';
import type { AnyOp } from './op.ts';

/** An operand while an op is planned: its spec, and which of the call's buffers it will be. */
export interface Slot extends Spec {
  readonly size: number;
  readonly slot: number;
}

/** Operands as `Operands.flat` has them. */
export type Slots = readonly (Slot | undefined)[];
type Specs = readonly (Spec | undefined)[];

/** All of a call but its buffers, which come in the order of the slots: inputs, then outputs. */
export interface Call {
  readonly op: AnyOp;
  readonly attrs: unknown;
  readonly inputs: Slots;
  readonly outputs: Slots;
}

/** A call made ready: with the backend's plan, null where there is nothing to do. */
export interface Prepared extends Call {
  readonly plan: unknown;
}

/** Plans kept at most; past it all go. */
const MOST = 8192;

/**
 * Plans by op, specs and attributes, for one device: an op that meets the same shapes again is not checked and planned
 * anew. Attributes must be plain data, of numbers, strings, booleans, arrays and objects of these.
 */
class PlanCache {
  private readonly plans = new Map<AnyOp, { latest: Prepared | null; readonly all: Map<number, Prepared[]> }>();
  private count = 0;

  constructor(private readonly backend: Backend) {}

  /** @throws what the op's shape rule throws, or the backend of what it cannot run */
  prepare(op: AnyOp, inputs: Specs, attrs: unknown): Prepared {
    if (this.count >= MOST) {
      this.plans.clear();
      this.count = 0;
    }
    let own = this.plans.get(op);
    if (!own) this.plans.set(op, (own = { latest: null, all: new Map() }));
    // Layers repeat: mostly it is the same as the time before.
    if (own.latest && fits(own.latest, inputs, attrs)) return own.latest;
    const key = inputs.reduce((seed, input) => hash(input?.shape, seed + 1), hash(attrs, 0));
    let alike = own.all.get(key);
    if (!alike) own.all.set(key, (alike = []));
    let found = alike.find((prepared) => fits(prepared, inputs, attrs));
    if (!found) {
      found = this.plan(op, inputs, attrs);
      alike.push(found);
      this.count++;
    }
    return (own.latest = found);
  }

  private plan(op: AnyOp, given: Specs, attrs: unknown): Prepared {
    const missing = op.takes.missing(given);
    if (missing !== undefined) throw new ShapeError(`${op.name}: ${missing} is missing`);
    const specs = op.gives.flat<Spec>(op.shape(op.takes.named(given), attrs));
    while (specs.length > 0 && specs.at(-1) === undefined) specs.pop();
    for (const spec of specs) if (spec) expectSpec(spec);
    const { inputs, outputs } = slotsOf(given, specs);
    // Where all that comes out is empty there is nothing to compute, and no kernel need think of it.
    const empty = outputs.some((slot) => slot) && outputs.every((slot) => !slot || slot.size === 0);
    // A caller may change its arrays later.
    const call = { op, attrs: structuredClone(attrs), inputs, outputs };
    return { ...call, plan: empty ? null : this.backend.plan(call) };
  }
}

const caches = new WeakMap<Backend, PlanCache>();

/** The plans of a device. */
export function plansOf(device: Backend): PlanCache {
  let cache = caches.get(device);
  if (!cache) caches.set(device, (cache = new PlanCache(device)));
  return cache;
}

/** The operands of a call as slots, numbered in order. */
export function slotsOf(inputs: Specs, outputs: Specs): { readonly inputs: Slots; readonly outputs: Slots } {
  const slot = (spec: Spec | undefined, i: number): Slot | undefined =>
    spec && { shape: [...spec.shape], dtype: spec.dtype, size: elements(spec.shape), slot: i };
  return { inputs: inputs.map(slot), outputs: outputs.map((spec, i) => slot(spec, inputs.length + i)) };
}

/** Slots of what a call writes to, of its operands that are there. */
export function writtenBy({ op, inputs, outputs }: Call): number[] {
  const written = [...op.mutates.map((i) => inputs[i]), ...outputs];
  return written.flatMap((slot) => (slot ? [slot.slot] : []));
}

/** Whether a plan is for these specs and attributes. */
function fits({ inputs: own, attrs: ownAttrs }: Prepared, inputs: Specs, attrs: unknown): boolean {
  if (own.length !== inputs.length) return false;
  for (let i = 0; i < own.length; i++) {
    const [a, b] = [own[i], inputs[i]];
    if (!a || !b) {
      if (a === b) continue;
      return false;
    }
    if (a.dtype !== b.dtype || a.shape.length !== b.shape.length) return false;
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

/** Mixes the numbers of plain data into `seed`, fractions too. */
function hash(value: unknown, seed: number): number {
  if (typeof value === 'number') return Math.imul(seed ^ (value * 1099511627791.3), 0x9e3779b1);
  if (typeof value !== 'object' || value === null) return seed;
  for (const name in value) seed = hash((value as Readonly<Record<string, unknown>>)[name], seed + 1);
  return seed;
}
