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
import type { DecoderOutput } from '../../models/matvlm/layers/decoder.ts';
import { type LossOptions, nextTokenLoss, publishedLosses } from '../../models/matvlm/losses.ts';
import { MaTVLM } from '../../models/matvlm/model.ts';
import { isTrainable } from '../../models/matvlm/names.ts';
import { nextLabels } from '../../models/matvlm/vqa-batch.ts';
import type { Spliced, TokenBatch } from '../../models/matvlm/splice.ts';
import { project } from '../../models/nn/layers.ts';
import { AdamW } from '../../models/nn/optimiser.ts';
import { disposeModel, loadWeights, modelFrom, readConfig, sharedParameters } from '../../models/matvlm/weights.ts';
import { backward } from '../../ops/index.ts';
import { type Check, type HostTensor, norm, readTensors, relativeError } from './golden-types.ts';

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
  readonly failures: Check[] = [];

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

  rows(name: string): number[][] {
    const { shape, data } = this.golden.get(name)!;
    return Array.from({ length: shape[0] }, (_, b) => Array.from(data.subarray(b * shape[1], (b + 1) * shape[1])));
  }

  batch(): TokenBatch {
    return { ids: this.rows('input_ids'), labels: this.rows('labels'), mask: this.rows('attention_mask') };
  }

  upload(name: string): Tensor {
    const { shape, data, dtype } = this.golden.get(name)!;
    return fromData(this.backend, data, shape, dtype);
  }

  async tensor(name: string, got: Tensor, want = this.golden.get(name)): Promise<Check> {
    return this.values(name, await got.data(), want?.data);
  }

  values(name: string, got: ArrayLike<number>, want: ArrayLike<number> | undefined, most = TOLERANCE): Check {
    if (!want) return { id: `${this.id}/${name}`, passed: false, error: 'is not in the golden files' };
    const error = relativeError(got, want);
    return { id: `${this.id}/${name}`, passed: error <= most, error: error.toExponential(2) };
  }

  number(name: string, got: number, want: number, most = TOLERANCE): Check {
    const error = Math.abs(got - want) / Math.abs(want || 1);
    return { id: `${this.id}/${name}`, passed: error <= most, error: `${got} against ${want}` };
  }

  same(name: string, got: ArrayLike<number | string>, want: ArrayLike<number | string>): Check {
    const [a, b] = [Array.from(got).join(), Array.from(want).join()];
    return { id: `${this.id}/${name}`, passed: a === b, error: a === b ? '' : `${a} against ${b}` };
  }
}

/** Replays one folder of `models/`. */
export async function* replayModel(folder: string, name: string, backend: Backend): AsyncGenerator<Check> {
  let replay: Replay;
  try {
    replay = await open(folder, `models/${name}`, backend);
  } catch (error) {
    yield { id: `models/${name}/load`, passed: false, error: (error as Error).message };
    return;
  }
  const parts = [forwardChecks, mixerChecks, trainableChecks, teacherGradChecks, lossChecks, greedyChecks, stepChecks];
  for (const part of parts) {
    try {
      yield* part(replay);
    } catch (error) {
      yield { id: `${replay.id}/${part.name}`, passed: false, error: (error as Error).stack ?? String(error) };
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
  const [golden, grads, after3] = [
    await readTensors(folder, 'case'),
    await readTensors(folder, 'grads'),
    await readTensors(folder, 'after3'),
  ];
  return new Replay(id, backend, teacher, student, golden, grads, after3, expect);
}

interface Run extends DecoderOutput {
  readonly spliced: Spliced & { embeds?: Tensor };
  readonly logits: Tensor;
}

function run(r: Replay, model: MaTVLM): Run {
  const features = model.visionFeatures(r.upload('pixel_values'));
  const out = model.forward(r.batch(), features);
  return { ...out, logits: model.decoder.logits(out.hidden.at(-1)!) };
}

/** Hidden states as the reference lists them: the last one after the final norm. */
function listed(model: MaTVLM, hidden: readonly Tensor[]): Tensor[] {
  return [...hidden.slice(0, -1), model.decoder.finalNorm.forward(hidden.at(-1)!)];
}

async function* forwardChecks(r: Replay): AsyncGenerator<Check> {
  const made = scope(() =>
    noGrad(() => {
      const vision = r.teacher.tower.hiddenStates(r.upload('pixel_values'));
      const features = r.teacher.connector.forward(r.teacher.visionFeatures(r.upload('pixel_values')));
      const teacher = run(r, r.teacher);
      const student = run(r, r.student);
      const keyMask = r.upload('spliced_mask');
      const onTeacher = r.student.decoder.layers.map(
        (layer, i) => layer.forward(teacher.hidden[i], null, { keyMask }, 0)[0],
      );
      const last = onTeacher.length - 1;
      onTeacher[last] = r.student.decoder.finalNorm.forward(onTeacher[last]);
      const embeds = r.teacher.splice(r.batch(), features).embeds;
      return {
        vision,
        features,
        embeds,
        spliced: teacher.spliced,
        teacher: { hidden: listed(r.teacher, teacher.hidden), logits: teacher.logits },
        student: { hidden: listed(r.student, student.hidden), logits: student.logits },
        onTeacher: [teacher.hidden[0], ...onTeacher],
      };
    }),
  );
  for (const [i, state] of made.vision.entries()) yield await r.tensor(`vision.hidden.${i}`, state);
  yield await r.tensor('features', made.features);
  yield await r.tensor('teacher.embeds', made.embeds);
  yield r.same('spliced_labels', made.spliced.labels, r.golden.get('spliced_labels')!.data);
  yield r.same('spliced_mask', made.spliced.mask, r.golden.get('spliced_mask')!.data);
  for (const side of ['teacher', 'student'] as const) {
    for (const [i, state] of made[side].hidden.entries()) yield await r.tensor(`${side}.hidden.${i}`, state);
    yield await r.tensor(`${side}.logits`, made[side].logits);
  }
  for (const [i, state] of made.onTeacher.entries()) yield await r.tensor(`student.teacher_input_hidden.${i}`, state);
  for (const tensor of [...made.vision, made.features, made.embeds, made.teacher.logits, made.student.logits]) {
    tensor.dispose();
  }
  for (const tensor of [...made.teacher.hidden, ...made.student.hidden, ...made.onTeacher]) tensor.dispose();
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
    return { y, ssm: keep(state.kind === 'mamba' ? state.ssm : y), grad: u.grad!.detach() };
  });
  yield await r.tensor('mixer.y', made.y);
  yield await r.tensor('mixer.final_state', made.ssm);
  yield await r.tensor('mixer.grad_u', made.grad);
  for (const tensor of [made.y, made.ssm, made.grad]) tensor.dispose();
}

async function* trainableChecks(r: Replay): AsyncGenerator<Check> {
  yield r.same('ssm_layers', ssmLayers(r.student.config), r.expect.ssm_layers);
  const names = [...r.student.parameters.keys()].filter(isTrainable);
  yield r.same('trainable', [...names].sort(), [...r.expect.trainable].sort());
  const count = names.reduce((sum, name) => sum + r.student.parameters.get(name)!.size, 0);
  yield r.number('trainable_count', count, r.expect.trainable_count, 0);
}

async function crossEntropyOf(r: Replay, model: MaTVLM, differentiate: boolean): Promise<number> {
  const loss = scope(() => {
    const { logits, spliced } = run(r, model);
    const next = nextLabels(spliced.labels, spliced.batch, spliced.length);
    const ce = nextTokenLoss(logits, fromData(logits.backend, next, [next.length], 'i32'));
    if (differentiate) backward(ce);
    return ce;
  });
  const value = await loss.item();
  loss.dispose();
  return value;
}

/**
 * Compares and drops the gradients of a model that the file has under a prefix. A gradient that is zero in exact
 * arithmetic (the key biases of attention without rotary) is rounding noise in f32: below a thousandth of the norm of
 * all gradients, the error is taken relative to that.
 */
async function* gradChecks(r: Replay, model: MaTVLM, prefix: string): AsyncGenerator<Check> {
  const wanted = [...r.grads].filter(([key]) => key.startsWith(prefix));
  const floor = 1e-3 * norm(wanted.map(([, want]) => norm(want.data)));
  for (const [key, want] of wanted) {
    const grad = model.parameters.get(key.slice(prefix.length))?.grad;
    const id = `${r.id}/${key}`;
    if (!grad) {
      yield { id, passed: false, error: 'has no gradient' };
      continue;
    }
    const error = relativeError(await grad.data(), want.data, floor);
    yield { id, passed: error <= TOLERANCE, error: error.toExponential(2) };
  }
  for (const tensor of model.parameters.values()) {
    tensor.grad?.dispose();
    tensor.grad = null;
  }
}

async function* teacherGradChecks(r: Replay): AsyncGenerator<Check> {
  setTrainable(r.teacher, () => true);
  yield r.number('teacher_ce', await crossEntropyOf(r, r.teacher, true), r.expect.teacher_ce);
  yield* gradChecks(r, r.teacher, 'teacher.ce.grad.');
  setTrainable(r.teacher, () => false);
  yield r.number('student_ce', await crossEntropyOf(r, r.student, false), r.expect.student_ce);
}

/** Reads a loss as `expect.json` names it: `kl@T=2.0`, `layer.l2`, `jsd+0.5ce`. */
function lossOptions(name: string): LossOptions {
  const none = { ...publishedLosses, klWeight: 0, layerWeight: 0 };
  const layer = /^layer\.(l2|kl)$/.exec(name);
  if (layer) return { ...none, layerWeight: 1, layerKind: layer[1] as LossOptions['layerKind'] };
  const match = /^(kl|reverse|jsd|ce|l2)(?:@T=([\d.]+))?(?:\+([\d.]+)ce)?$/.exec(name);
  if (!match) throw new Error(`unknown loss ${name}`);
  const [, kind, temperature, ce] = match;
  return {
    ...none,
    klWeight: 1,
    kind: kind as LossOptions['kind'],
    temperature: Number(temperature ?? 1),
    ceWeight: Number(ce ?? 0),
  };
}

function studentLoss(r: Replay, options: LossOptions): LossParts {
  const features = noGrad(() => r.student.visionFeatures(r.upload('pixel_values')));
  return distillPlain(r.teacher, r.student, r.batch(), features, options);
}

async function* lossChecks(r: Replay): AsyncGenerator<Check> {
  setTrainable(r.student, isTrainable);
  for (const [name, want] of Object.entries(r.expect.losses)) {
    try {
      const prefix = `student.${name}.grad.`;
      const differentiate = [...r.grads.keys()].some((key) => key.startsWith(prefix));
      yield r.number(`loss.${name}`, await lossOf(r, lossOptions(name), differentiate), want);
      if (differentiate) yield* gradChecks(r, r.student, prefix);
    } catch (error) {
      yield { id: `${r.id}/loss.${name}`, passed: false, error: (error as Error).message };
    }
  }
  yield r.number('total', await lossOf(r, publishedLosses, true), r.expect.total);
  yield* gradChecks(r, r.student, 'student.distill.grad.');
}

async function lossOf(r: Replay, options: LossOptions, differentiate: boolean): Promise<number> {
  const loss = scope(() => {
    const { total } = studentLoss(r, options);
    if (differentiate) backward(total);
    return total;
  });
  const value = await loss.item();
  loss.dispose();
  return value;
}

async function* greedyChecks(r: Replay): AsyncGenerator<Check> {
  const [, ...shape] = r.golden.get('pixel_values')!.shape;
  const size = shape.reduce((a, b) => a * b, 1);
  const pixels = Float32Array.from(r.golden.get('pixel_values')!.data.subarray(0, size));
  for (const side of ['teacher', 'student'] as const) {
    const want = r.expect.greedy[side];
    const cached: number[] = [];
    for await (const id of generateIds(r[side], r.expect.greedy.prompt, pixels, { maxNewTokens: want.length })) {
      cached.push(id);
    }
    yield r.same(`greedy.${side}.cached`, cached, want);
    yield r.same(`greedy.${side}.full`, await greedyWithoutCache(r, r[side], pixels, want.length), want);
  }
}

async function greedyWithoutCache(r: Replay, model: MaTVLM, pixels: Float32Array, count: number): Promise<number[]> {
  const ids = [...r.expect.greedy.prompt];
  const shape = [1, ...r.golden.get('pixel_values')!.shape.slice(1)];
  const made: number[] = [];
  for (let i = 0; i < count; i++) {
    const cache = model.decoder.cache();
    const logits = scope(() => prefill(model, ids, fromData(r.backend, pixels, shape), cache));
    const values = Array.from(await logits.data());
    const id = values.indexOf(Math.max(...values));
    logits.dispose();
    cache.dispose();
    made.push(id);
    ids.push(id);
  }
  return made;
}

async function* stepChecks(r: Replay): AsyncGenerator<Check> {
  const trained = setTrainable(r.student, isTrainable);
  const before = new Map<string, ArrayLike<number>>();
  for (const [name, tensor] of trained) before.set(name, await tensor.data());
  const optimiser = new AdamW(trained, { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.01, clip: 0.1 });
  for (const [i, want] of r.expect.steps.entries()) {
    const made = scope(() => {
      const parts = studentLoss(r, publishedLosses);
      backward(parts.total);
      return { ...parts, stats: optimiser.step(scalar(parts.total.backend, 2e-4), parts.total) };
    });
    yield r.number(`step${i}.loss`, await made.total.item(), want.loss);
    yield r.number(`step${i}.kl`, await made.kl!.item(), want.kl);
    yield r.number(`step${i}.layer`, await made.layer!.item(), want.layer);
    yield r.number(`step${i}.grad_norm`, (await made.stats.data())[0], want.grad_norm);
    for (const tensor of [made.total, made.kl!, made.layer!, made.stats]) tensor.dispose();
  }
  for (const [name, tensor] of trained) {
    const start = before.get(name)!;
    const change = Array.from(await tensor.data(), (v, i) => v - start[i]);
    const want = Array.from(r.after3.get(name)?.data ?? [], (v, i) => v - start[i]);
    yield r.values(`after3.${name}`, change, want, STEP_TOLERANCE);
  }
  optimiser.dispose();
}
