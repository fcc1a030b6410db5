import { ArgumentError } from '../../engine/errors.ts';
import { ConfigError } from '../nn/errors.ts';
import type { Random } from '../nn/random.ts';
import { type MatvlmConfig, mambaConfig } from './config.ts';
import { type InitOptions, initialiseMixers } from './initialise.ts';
import { MaTVLM } from './model.ts';
import { isTrainable, replacedIn } from './names.ts';
import { finished, hostWeights, sharedParameters } from './weights.ts';

/** Which layers of a teacher a student replaces, and how. */
export interface StudentOptions extends InitOptions {
  readonly layers: readonly number[];
  /** Give the projections of the mixers biases. */
  readonly bias: boolean;
}

/** A share of a decoder's layers, evenly spread from the first: 0.25 of 32 is 0, 4, …, 28. */
export function evenLayers(layers: number, share: number): number[] {
  const count = Math.max(1, Math.round(layers * share));
  if (!(share > 0 && share <= 1)) throw new ArgumentError(`ratio is ${share}, expected a number above 0 to 1`);
  return Array.from({ length: count }, (_, i) => Math.floor((i * layers) / count));
}

/**
 * The configuration of a student.
 * @throws ConfigError for no layer or one out of range, or a teacher that is a hybrid already
 */
export function studentConfig({ model, mamba }: MatvlmConfig, layers: readonly number[], bias: boolean): MatvlmConfig {
  if (mamba)
    throw new ConfigError('the teacher has a mamba_config.json: it is a student already; give a pure transformer');
  if (layers.length === 0) {
    throw new ConfigError('layers is empty: a student replaces at least one layer of its teacher; name some');
  }
  const distinct = [...new Set(layers)];
  return { model, mamba: mambaConfig(model.text_config, distinct, bias) };
}

/**
 * A student of a teacher on the same backend: frozen tensors are shared, the connector starts as the teacher's, the
 * mixers as `options` says.
 */
export async function createStudent(teacher: MaTVLM, options: StudentOptions, random: Random): Promise<MaTVLM> {
  const config = studentConfig(teacher.config, options.layers, options.bias);
  const student = new MaTVLM(config, teacher.backend, sharedParameters(teacher));
  return finished(student, teacher, async () => {
    const attention = await hostWeights(teacher, replacedIn(config.model.text_config, options.layers));
    initialiseMixers(student, attention, random, options);
    for (const [name, data] of await hostWeights(teacher, (n) => isTrainable(n) && student.parameters.has(n))) {
      student.backend.write([student.parameters.get(name)!.buffer], [data]);
    }
  });
}
