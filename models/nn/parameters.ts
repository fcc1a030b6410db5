import type { Backend } from '../../engine/backend.ts';
import { ConfigError } from '../../engine/errors.ts';
import { empty, type Tensor } from '../../engine/tensor.ts';

/** Gives the tensor of a parameter when a module asks for it by its full name. */
export type ParameterSource = (name: string, shape: readonly number[]) => Tensor;

/**
 * The parameters of a model while it is built: modules take theirs by name, sub-modules get `at('name')`. What was
 * taken is the model's state dict. Build a model in a scope and `keep` its parameters at the end: should one be refused
 * or find no room, those before it are freed.
 */
export class Parameters {
  constructor(
    private readonly source: ParameterSource,
    readonly all: Map<string, Tensor> = new Map(),
    private readonly prefix = '',
  ) {}

  /** The parameters below a name: `at('self_attn').get('weight', …)` is `self_attn.weight`. */
  at(name: string | number): Parameters {
    return new Parameters(this.source, this.all, `${this.prefix}${name}.`);
  }

  /** @throws ConfigError when two modules take the same name */
  get(name: string, shape: readonly number[]): Tensor {
    const full = this.prefix + name;
    if (this.all.has(full)) throw new ConfigError(`parameter "${full}" is taken twice`);
    const tensor = this.source(full, shape);
    tensor.name ??= full;
    this.all.set(full, tensor);
    return tensor;
  }
}

/** Fresh, uninitialised parameters on a backend, to be filled by a checkpoint or an initialiser. */
export function emptyParameters(backend: Backend): ParameterSource {
  return (_, shape) => empty(backend, shape);
}
