import { existsSync } from 'node:fs';
import { ReferenceBackend } from '../../../../../engine/backends/reference/reference.ts';
import { SystemError } from '../../../../../engine/errors.ts';
import { diskFolder } from '../../../../../engine/node/index.ts';
import { Checkpoint } from '../../../../../engine/safetensors/index.ts';
import type { SafeTensor } from '../../store/encode-safetensors.ts';
import { empty, Storage, Tensor } from '../../../../../engine/tensor.ts';
import { Random } from '../../../../nn/random.ts';
import type { MatvlmConfig } from '../../../config.ts';
import { initialiseMixers } from '../../../initialise.ts';
import { MaTVLM } from '../../../model.ts';
import { isMixer, replacedIn } from '../../../names.ts';
import { readModel, tokenizerFiles } from '../../node/model-folder.ts';
import { finiteTensors, saveModel } from '../../node/save-model.ts';
import { outline } from '../../../sizes.ts';
import { evenLayers, studentConfig } from '../../../student.ts';
import { checkKeys, readConfig } from '../../../weights.ts';
import type { initTable } from './init.ts';
import { type Settings } from '../options/options.ts';
import { say, thousands, warn } from '../terminal/output.ts';

/** `matvlm init TEACHER FOLDER` */
export async function init(settings: Settings<typeof initTable>, spec: string, target: string): Promise<void> {
  if (existsSync(target))
    throw new SystemError(`${target} exists already; choose another folder: nothing is overwritten`);
  await readModel(spec, (teacher) => initFrom(teacher, settings, spec, target), warn);
}

async function initFrom(
  teacher: string,
  settings: Settings<typeof initTable>,
  spec: string,
  target: string,
): Promise<void> {
  const source = diskFolder(teacher);
  const config = await readConfig(source);
  const layers = settings.layers ?? evenLayers(config.model.text_config.num_hidden_layers, settings.ratio);
  const own = studentConfig(config, layers, settings.bias);
  const checkpoint = await Checkpoint.open(source);
  try {
    checkKeys(outline(config), checkpoint);
    const student = await initialised(own, layers, checkpoint, settings);
    const flags = ['--layers', layers.join(','), '--init', settings.init, '--seed', String(settings.seed)];
    const switches = [settings.identityConv && '--identity-conv', settings.bias && '--bias'].filter((s) => s !== false);
    const command = ['init', spec, target, ...flags, ...switches];
    const title = `MaTVLM student, layers ${layers.join(', ')} initialised from ${settings.init}`;
    await saveModel(target, {
      config: own,
      tensors: tensorsOf(student, checkpoint),
      tokenizer: await tokenizerFiles(teacher),
      card: { title, command, teacher: spec },
    });
    const fresh = [...student.parameters]
      .filter(([name]) => isMixer(name))
      .reduce((sum, [, t]) => sum + t.size, 0);
    say(
      `wrote ${target}: layers ${layers.join(', ')} are Mamba-2 mixers (${thousands(fresh)} parameters), ` +
        `from ${settings.init}`,
    );
  } finally {
    await checkpoint.close();
  }
}

/** A student whose mixers alone hold data; all else stays in the teacher's files. */
async function initialised(
  config: MatvlmConfig,
  layers: readonly number[],
  checkpoint: Checkpoint,
  settings: Settings<typeof initTable>,
): Promise<MaTVLM> {
  const backend = new ReferenceBackend();
  const student = new MaTVLM(config, backend, (name, shape) =>
    isMixer(name) ? empty(backend, shape) : new Tensor(new Storage(backend, null), shape, 'f32'),
  );
  const attention = new Map<string, Float32Array>();
  const replaced = replacedIn(config.model.text_config, layers);
  for (const name of checkpoint.keys()) {
    if (replaced(name)) attention.set(name, await checkpoint.readAs(name, 'f32'));
  }
  const { init: from, identityConv } = settings;
  initialiseMixers(student, attention, new Random(settings.seed), { from, identityConv });
  return student;
}

/** The mixers, and the teacher's own bytes of all else, read one tensor at a time. */
function tensorsOf(student: MaTVLM, checkpoint: Checkpoint): SafeTensor[] {
  const mixers = new Map([...student.parameters].filter(([name]) => isMixer(name)));
  const copied = [...student.parameters.keys()].filter((name) => !mixers.has(name));
  return [
    ...finiteTensors(mixers),
    ...copied.map((name): SafeTensor => {
      const { dtype, shape } = checkpoint.spec(name);
      return { name, dtype, shape, data: () => checkpoint.read(name) };
    }),
  ];
}
