import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../../engine/backend.ts';
import { diskFolder } from '../../engine/node/source.ts';
import { Checkpoint } from '../../engine/safetensors/index.ts';
import { keep, scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, scalar, type Tensor } from '../../engine/tensor.ts';
import { ssmLayers } from '../../models/matvlm/config.ts';
import { distillPlain, type LossParts, setTrainable } from '../../models/matvlm/distill.ts';
import { generateIds, prefill } from '../../models/matvlm/generate.ts';
import { type LossOptions, nextTokenLoss, publishedLosses } from '../../models/matvlm/losses.ts';
import { MaTVLM } from '../../models/matvlm/model.ts';
import { isTrainable } from '../../models/matvlm/names.ts';
import { nextLabels } from '../../models/matvlm/vqa-batch.ts';
import type { TokenBatch } from '../../models/matvlm/splice.ts';
import { project } from '../../models/nn/layers.ts';
import { AdamW } from '../../models/nn/optimiser.ts';
import { disposeModel, loadWeights, modelFrom, readConfig, sharedParameters } from '../../models/matvlm/weights.ts';
import { backward } from '../../ops/index.ts';
import { type Check, type HostTensor, norm, readTensors, relativeError } from './golden-types.ts';
import { takeGradients, valueOf, weightsOf } from './losses.ts';

interface Expect {
  readonly ssm_layers: number[];
  readonly trainable: string[];
  readonly trainable_count: number;
  readonly teacher_ce: number;
  readonly student_ce: number;
  readonly losses: Record<string, number>;
  readonly total: number;
  readonly steps: { loss: number; kl: number; layer: number; grad_norm: number }[];
  readonly mixer_layer: number;
  readonly greedy: { prompt: number[]; teacher: number[]; student: number[] };
}

type Tensors = Map<string, HostTensor>;

/** Tolerance on ‖x−y‖/‖y‖ of tensors and on the relative error of losses. */
const TOLERANCE = 1e-4;
/** Tolerance on the change of the parameters after three steps. */
const STEP_TOLERANCE = 2e-2;

/** One golden model with all that its checks share. */
class Replay {
  constructor(
    readonly id: string,
    readonly backend: Backend,
    readonly teacher: MaTVLM,
    readonly student: MaTVLM,
    readonly golden: Tensors,
    readonly grads: Tensors,
    readonly after3: Tensors,
    readonly expect: Expect,
  ) {}

  batch(): TokenBatch {
    const rows = (name: string) => {
      const { shape, data } = this.golden.get(name)!;
      return Array.from({ length: shape[0] }, (_, b) => Array.from(data.subarray(b * shape[1], (b + 1) * shape[1])));
    };
    return { ids: rows('input_ids'), labels: rows('labels'), mask: rows('attention_mask') };
  }

  upload(name: string): Tensor {
    const { shape, data, dtype } = this.golden.get(name)!;
    return fromData(this.backend, data, shape, dtype);
  }

  /** The outcome of a comparison that gave this error. */
  check(name: string, error: number, most = TOLERANCE, text = error.toExponential(2)): Check {
    return { id: `${this.id}/${name}`, passed: error <= most, error: text };
  }

  values(name: string, got: ArrayLike<number>, want: ArrayLike<number> = [], most = TOLERANCE, floor = 0): Check {
    return this.check(name, want.length > 0 ? relativeError(got, want, floor) : Infinity, most);
  }

  number(name: string, got: number, want: number, most = TOLERANCE): Check {
    return this.check(name, Math.abs(got - want) / Math.abs(want || 1), most, `${got} against ${want}`);
  }

  same(name: string, got: ArrayLike<number | string>, want: ArrayLike<number | string>): Check {
    const [a, b] = [Array.from(got).join(), Array.from(want).join()];
    return this.check(name, a === b ? 0 : Infinity, 0, a === b ? '' : `${a} against ${b}`);
  }

  /** Compares tensors with the golden ones of those names, and frees them. */
  async *tensors(made: Readonly<Record<string, Tensor | readonly Tensor[]>>): AsyncGenerator<Check> {
    const all = Object.entries(made).flatMap(([name, one]) =>
      Array.isArray(one) ? one.map((tensor, i) => [`${name}.${i}`, tensor] as const) : [[name, one as Tensor] as const],
    );
    for (const [name, tensor] of all) yield this.values(name, await tensor.data(), this.golden.get(name)?.data);
    for (const [, tensor] of all) tensor.dispose();
  }
}

/** Replays one folder of `models/`. */
export async function* replayModel(folder: string, name: string, backend: Backend): AsyncGenerator<Check> {
  const id = `models/${name}`;
  let replay: Replay;
  try {
    replay = await open(folder, id, backend);
  } catch (error) {
    yield { id: `${id}/load`, passed: false, error: (error as Error).message };
    return;
  }
  const parts = [forwardChecks, mixerChecks, trainableChecks, teacherGradChecks, lossChecks, greedyChecks, stepChecks];
  for (const part of parts) {
    try {
      yield* part(replay);
    } catch (error) {
      yield { id: `${id}/${part.name}`, passed: false, error: (error as Error).stack ?? String(error) };
    }
  }
  disposeModel(replay.student, replay.teacher);
  disposeModel(replay.teacher);
}

async function open(folder: string, id: string, backend: Backend): Promise<Replay> {
  const teacherFolder = diskFolder(join(folder, 'teacher'));
  const studentFolder = diskFolder(join(folder, 'student'));
  const teacherWeights = await Checkpoint.open(teacherFolder);
  const teacher = await modelFrom(await readConfig(teacherFolder), teacherWeights, backend);
  await teacherWeights.close();
  const student = new MaTVLM(await readConfig(studentFolder), backend, sharedParameters(teacher));
  const weights = await Checkpoint.open(studentFolder);
  await loadWeights(student, weights, {}, isTrainable);
  await weights.close();
  const expect = JSON.parse(readFileSync(join(folder, 'expect.json'), 'utf8')) as Expect;
  const read = (stem: string) => readTensors(folder, stem);
  const [golden, grads, after3] = [await read('case'), await read('grads'), await read('after3')];
  return new Replay(id, backend, teacher, student, golden, grads, after3, expect);
}

/** A pass over the batch: hidden states of all layers, labels and mask where the image is put in, logits. */
function run(r: Replay, model: MaTVLM) {
  const out = model.forward(r.batch(), model.visionFeatures(r.upload('pixel_values')));
  return { ...out, logits: model.decoder.logits(out.hidden.at(-1)!) };
}

/** Hidden states as the reference lists them: the last one after the final norm. */
function listed(model: MaTVLM, hidden: readonly Tensor[]): Tensor[] {
  return [...hidden.slice(0, -1), model.decoder.finalNorm.forward(hidden.at(-1)!)];
}

async function* forwardChecks(r: Replay): AsyncGenerator<Check> {
  const { spliced, ...made } = scope(() =>
    noGrad(() => {
      const vision = r.teacher.tower.hiddenStates(r.upload('pixel_values'));
      const features = r.teacher.connector.forward(r.teacher.visionFeatures(r.upload('pixel_values')));
      const [teacher, student] = [run(r, r.teacher), run(r, r.student)];
      const keyMask = r.upload('spliced_mask');
      const onTeacher = r.student.decoder.layers.map(
        (layer, i) => layer.forward(teacher.hidden[i], null, { keyMask }, 0)[0],
      );
      return {
        'vision.hidden': vision,
        features,
        'teacher.embeds': r.teacher.splice(r.batch(), features).embeds,
        'teacher.hidden': listed(r.teacher, teacher.hidden),
        'teacher.logits': teacher.logits,
        'student.hidden': listed(r.student, student.hidden),
        'student.logits': student.logits,
        'student.teacher_input_hidden': listed(r.student, [teacher.hidden[0], ...onTeacher]),
        spliced: teacher.spliced,
      };
    }),
  );
  yield r.same('spliced_labels', spliced.labels, r.golden.get('spliced_labels')!.data);
  yield r.same('spliced_mask', spliced.mask, r.golden.get('spliced_mask')!.data);
  yield* r.tensors(made);
}

async function* mixerChecks(r: Replay): AsyncGenerator<Check> {
  const { mixer } = r.student.decoder.layers[r.expect.mixer_layer];
  if (mixer.kind !== 'mamba') throw new Error(`layer ${r.expect.mixer_layer} holds no mixer`);
  const made = scope(() => {
    const u = r.upload('mixer.u');
    u.requiresGrad = true;
    const [gated, state] = mixer.forward(project(u, mixer.projections), null);
    const y = mixer.output.forward(gated);
    backward(y, r.upload('mixer.grad_y'));
    const ssm = keep(state.kind === 'mamba' ? state.ssm : y);
    return { 'mixer.y': y, 'mixer.final_state': ssm, 'mixer.grad_u': u.grad!.detach() };
  });
  yield* r.tensors(made);
}

async function* trainableChecks(r: Replay): AsyncGenerator<Check> {
  yield r.same('ssm_layers', ssmLayers(r.student.config), r.expect.ssm_layers);
  const names = [...r.student.parameters.keys()].filter(isTrainable);
  yield r.same('trainable', [...names].sort(), [...r.expect.trainable].sort());
  const count = names.reduce((sum, name) => sum + r.student.parameters.get(name)!.size, 0);
  yield r.number('trainable_count', count, r.expect.trainable_count, 0);
}

/** The cross entropy of the next token over the batch. */
function crossEntropy(r: Replay, model: MaTVLM): Tensor {
  const { logits, spliced } = run(r, model);
  const next = nextLabels(spliced.labels, spliced.batch, spliced.length);
  return nextTokenLoss(logits, fromData(logits.backend, next, [next.length], 'i32'));
}

/**
 * Compares and drops the gradients of a model that the file has under a prefix. A gradient that is zero in exact
 * arithmetic (the key biases of attention without rotary) is rounding noise in f32: below a thousandth of the norm of
 * all gradients, the error is taken relative to that.
 */
async function* gradChecks(r: Replay, model: MaTVLM, prefix: string): AsyncGenerator<Check> {
  const wanted = [...r.grads].filter(([key]) => key.startsWith(prefix));
  const floor = 1e-3 * norm(wanted.map(([, want]) => norm(want.data)));
  const grads = await takeGradients(model.parameters);
  for (const [key, want] of wanted) {
    yield r.values(key, grads.get(key.slice(prefix.length)) ?? [], want.data, TOLERANCE, floor);
  }
}

async function* teacherGradChecks(r: Replay): AsyncGenerator<Check> {
  setTrainable(r.teacher, () => true);
  yield r.number('teacher_ce', await valueOf(() => crossEntropy(r, r.teacher)), r.expect.teacher_ce);
  yield* gradChecks(r, r.teacher, 'teacher.ce.grad.');
  setTrainable(r.teacher, () => false);
  yield r.number('student_ce', await valueOf(() => crossEntropy(r, r.student), false), r.expect.student_ce);
}

/** Reads a loss as `expect.json` names it: `kl@T=2.0`, `layer.l2`, `jsd+0.5ce`. */
function lossOptions(name: string): LossOptions {
  const none = { ...publishedLosses, klWeight: 0, layerWeight: 0 };
  const layer = /^layer\.(l2|kl)$/.exec(name);
  if (layer) return { ...none, layerWeight: 1, layerKind: layer[1] as LossOptions['layerKind'] };
  const match = /^(kl|reverse|jsd|ce|l2)(?:@T=([\d.]+))?(?:\+([\d.]+)ce)?$/.exec(name);
  if (!match) throw new Error(`unknown loss ${name}`);
  const [, kind, temperature = 1, ce = 0] = match;
  const weights = { klWeight: 1, ceWeight: Number(ce) };
  return { ...none, ...weights, kind: kind as LossOptions['kind'], temperature: Number(temperature) };
}

function studentLoss(r: Replay, options: LossOptions): LossParts {
  const features = noGrad(() => r.student.visionFeatures(r.upload('pixel_values')));
  return distillPlain(r.teacher, r.student, r.batch(), features, options);
}

async function* lossChecks(r: Replay): AsyncGenerator<Check> {
  setTrainable(r.student, isTrainable);
  for (const [name, want] of [...Object.entries(r.expect.losses), ['distill', r.expect.total] as const]) {
    const prefix = `student.${name}.grad.`;
    const differentiate = [...r.grads.keys()].some((key) => key.startsWith(prefix));
    const [id, options] = name === 'distill' ? ['total', publishedLosses] : [`loss.${name}`, lossOptions(name)];
    yield r.number(id, await valueOf(() => studentLoss(r, options).total, differentiate), want);
    if (differentiate) yield* gradChecks(r, r.student, prefix);
  }
}

async function* greedyChecks(r: Replay): AsyncGenerator<Check> {
  const { shape, data } = r.golden.get('pixel_values')!;
  const pixels = Float32Array.from(data.subarray(0, data.length / shape[0]));
  for (const side of ['teacher', 'student'] as const) {
    const { prompt, [side]: want } = r.expect.greedy;
    const cached: number[] = [];
    for await (const id of generateIds(r[side], prompt, pixels, { maxNewTokens: want.length })) cached.push(id);
    yield r.same(`greedy.${side}.cached`, cached, want);
    const ids = [...prompt];
    while (ids.length < prompt.length + want.length) {
      const cache = r[side].decoder.cache();
      const logits = scope(() => prefill(r[side], ids, fromData(r.backend, pixels, [1, ...shape.slice(1)]), cache));
      const values = Array.from(await logits.data());
      ids.push(values.indexOf(Math.max(...values)));
      logits.dispose();
      cache.dispose();
    }
    yield r.same(`greedy.${side}.full`, ids.slice(prompt.length), want);
  }
}

async function* stepChecks(r: Replay): AsyncGenerator<Check> {
  const trained = setTrainable(r.student, isTrainable);
  const before = await weightsOf(r.student);
  const optimiser = new AdamW(trained, { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 0.1 });
  for (const [i, want] of r.expect.steps.entries()) {
    const made = scope(() => {
      const { total, kl, layer } = studentLoss(r, publishedLosses);
      backward(total);
      return { total, kl: kl!, layer: layer!, stats: optimiser.step(scalar(total.backend, 2e-4), total) };
    });
    yield r.number(`step${i}.loss`, await made.total.item(), want.loss);
    yield r.number(`step${i}.kl`, await made.kl.item(), want.kl);
    yield r.number(`step${i}.layer`, await made.layer.item(), want.layer);
    yield r.number(`step${i}.grad_norm`, (await made.stats.data())[0], want.grad_norm);
    for (const tensor of Object.values(made)) tensor.dispose();
  }
  for (const [name, tensor] of trained) {
    const start = before.get(name)!;
    const change = Array.from(await tensor.data(), (v, i) => v - start[i]);
    const want = Array.from(r.after3.get(name)?.data ?? [], (v, i) => v - start[i]);
    yield r.values(`after3.${name}`, change, want, STEP_TOLERANCE);
  }
  optimiser.dispose();
}
