import { ArgumentError } from './errors.ts';
import type { Tensor } from './tensor.ts';

/** Tensors made while a scope is open; all are freed at its end but what is returned or kept. */
export class Scope {
  readonly tensors: Tensor[] = [];
  constructor(readonly parent: Scope | null) {}
}

let current: Scope | null = null;

/** Gives a tensor to the innermost scope. */
export function track(tensor: Tensor): void {
  tensor.scope = current;
  if (current) current.tensors.push(tensor);
}

/**
 * Runs `body` and frees every tensor made in it, also when it throws, except those given to `keep` and those in its
 * return value, which go to the enclosing scope: they are found in arrays, plain objects, Maps and Sets, however deep.
 * @throws ArgumentError when `body` returns a promise: a scope is lexical and cannot span an await. And when it returns
 * an object of a class that holds in a field a tensor of this scope, which would be freed unseen.
 */
export function scope<T>(body: () => T): T {
  const own = new Scope(current);
  current = own;
  try {
    const result = body();
    if (result instanceof Promise) {
      throw new ArgumentError('scope: its function returned a promise; await outside and keep the scope synchronous');
    }
    release(result, own);
    return result;
  } finally {
    current = own.parent;
    for (const tensor of own.tensors) if (tensor.scope === own) tensor.dispose();
  }
}

/** The function in a scope of its own at each call: what it makes on the way is freed, whoever calls it. */
export function scoped<A extends unknown[], T>(body: (...given: A) => T): (...given: A) => T {
  return (...given) => scope(() => body(...given));
}

/** Takes a tensor out of every scope: from now on only `dispose` frees it. */
export function keep<T extends Tensor>(tensor: T): T {
  tensor.scope = null;
  return tensor;
}

function release(value: unknown, own: Scope): void {
  if (value === null || typeof value !== 'object') return;
  const held = items(value);
  if (isTensor(value)) {
    if (value.scope !== own) return;
    value.scope = own.parent;
    own.parent?.tensors.push(value);
  } else if (held) for (const item of held) release(item, own);
  else refuseHidden(value, own);
}

/** What a container that is looked into holds; null for objects of a class, and for what is no object. */
function items(value: unknown): readonly unknown[] | null {
  if (Array.isArray(value)) return value;
  if (value === null || typeof value !== 'object') return null;
  if (value instanceof Map || value instanceof Set) return [...value.values()];
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null ? Object.values(value) : null;
}

/** Throws when a field of an object of a class holds a tensor that the end of the scope would free. */
function refuseHidden(value: object, own: Scope): void {
  if (ArrayBuffer.isView(value)) return;
  for (const [field, held] of Object.entries(value)) {
    const freed = (items(held) ?? [held]).find((item) => isTensor(item) && item.scope === own);
    if (!freed) continue;
    throw new ArgumentError(
      `scope: its function returned a ${value.constructor.name} whose ${field} holds ${freed}, ` +
        'which the scope frees; keep() that tensor, or return it in an array or a plain object',
    );
  }
}

function isTensor(value: unknown): value is Tensor {
  return typeof value === 'object' && value !== null && 'storage' in value && 'scope' in value;
}
