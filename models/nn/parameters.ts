import type { Backend } from '../../engine/backend.ts';
import { decode, type DType } from '../../engine/dtype.ts';
import { ConfigError } from './errors.ts';
import { empty, type Tensor } from '../../engine/tensor.ts';

/**
 * Gives the tensor of a parameter when a module asks for it by its full name.
 * @param formats what the module can take it in, f32 among them
 */
export type ParameterSource = (name: string, shape: readonly number[], formats: readonly DType[]) => Tensor;

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

  /**
   * @param formats what its uses can take it in: `WEIGHTS` for the matrix of a product or a lookup
   * @throws ConfigError when two modules take the same name
   */
  get(name: string, shape: readonly number[], formats: readonly DType[] = ['f32']): Tensor {
    const full = this.prefix + name;
    if (this.all.has(full)) throw new ConfigError(`parameter "${full}" is taken twice`);
    const tensor = this.source(full, shape, formats);
    tensor.name ??= full;
    this.all.set(full, tensor);
    return tensor;
  }
}

/**
 * Fresh, uninitialised parameters on a backend, to be filled by a checkpoint or an initialiser.
 * @param stored the format that a parameter should have where its module can take it in that; else, and without it, f32
 */
export function emptyParameters(backend: Backend, stored?: (name: string) => DType | undefined): ParameterSource {
  return (name, shape, formats) => {
    const wanted = stored?.(name);
    return empty(backend, shape, wanted && formats.includes(wanted) ? wanted : 'f32');
  };
}

/** A host copy of a parameter, as f32. */
export async function hostFloats(tensor: Tensor): Promise<Float32Array> {
  const data = await tensor.data();
  return Float32Array.from(tensor.dtype === 'f32' ? data : decode(tensor.dtype, data, tensor.size));
}
