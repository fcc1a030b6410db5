import { byId } from './dom.ts';

/** A field holds what it may not. */
export class FieldError extends Error {
  /** @param field its id */
  constructor(
    readonly field: string,
    message: string,
  ) {
    super(message);
    this.name = 'FieldError';
  }
}

/** The number in a field, and marks whether it is one. @throws FieldError that tells what was expected of it */
export function numberIn(id: string): number {
  const input = byId<HTMLInputElement>(id);
  const { valid, badInput } = input.validity;
  const refused = !valid || input.value === '';
  input.setAttribute('aria-invalid', String(refused));
  if (!refused) return input.valueAsNumber;
  const got = badInput ? 'no number' : input.value || 'empty';
  const kind = input.step === 'any' ? 'a number' : 'a whole number';
  throw new FieldError(id, `${input.labels![0].textContent!.trim()} is ${got}, expected ${kind} from ${input.min} to ${input.max}.`);
}
