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
 * Runs `body` and frees every tensor made in it, except those in its return value (a tensor, or arrays and plain
 * objects of them, which go to the enclosing scope) and those given to `keep`. Also frees when `body` throws.
 * @throws ArgumentError when `body` returns a promise: a scope is lexical and cannot span an await.
 */
export function scope<T>(body: () => T): T {
  const own = new Scope(current);
  current = own;
  let result: T;
  try {
    result = body();
  } catch (error) {
    current = own.parent;
    close(own);
    throw error;
  }
  current = own.parent;
  if (result instanceof Promise) {
    close(own);
    throw new ArgumentError('scope: its function returned a promise; await outside and keep the scope synchronous');
  }
  release(result, own);
  close(own);
  return result;
}

/** Takes a tensor out of every scope: from now on only `dispose` frees it. */
export function keep<T extends Tensor>(tensor: T): T {
  tensor.scope = null;
  return tensor;
}

function release(value: unknown, own: Scope): void {
  if (value === null || typeof value !== 'object') return;
  if (isTensor(value)) {
    if (value.scope !== own) return;
    value.scope = own.parent;
    own.parent?.tensors.push(value);
  } else if (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) release(item, own);
  } else if (value instanceof Map) {
    for (const item of value.values()) release(item, own);
  }
}

function isTensor(value: object): value is Tensor {
  return 'storage' in value && 'scope' in value;
}

function close(own: Scope): void {
  for (const tensor of own.tensors) if (tensor.scope === own) tensor.dispose();
}
