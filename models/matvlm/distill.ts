import { scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { distillLoss } from '../../ops/index.ts';
import type { DecoderOutput, PassOptions } from './layers/decoder.ts';
import {
  answerWeights,
  layerLoss,
  type LayerPair,
  type LossOptions,
  nextTokenLoss,
  type Share,
  times,
  weightedSum,
  WHOLE,
} from './losses.ts';
import type { MaTVLM } from './model.ts';
import type { Spliced, TokenBatch } from './splice.ts';
import {
  forwardVqa,
  joinLosses,
  layerVqa,
  prefixWeights,
  uploadVqa,
  type VqaBatch,
  type VqaInputs,
  type VqaOutput,
} from './vqa-pass.ts';

/** The parts of a loss, each as its batch's share of the step; `total` is what is differentiated. */
export interface LossParts {
  readonly total: Tensor;
  readonly kl: Tensor | null;
  readonly layer: Tensor | null;
  readonly ce: Tensor | null;
}

/** Sets `requiresGrad` on the parameters that `which` names and clears it on the others; returns the former. */
export function setTrainable(model: MaTVLM, which: (name: string) => boolean): Map<string, Tensor> {
  const trained = new Map<string, Tensor>();
  for (const [name, tensor] of model.parameters) {
    tensor.requiresGrad = which(name);
    if (tensor.requiresGrad) trained.set(name, tensor);
  }
  return trained;
}

/** Cross-entropy of a model on a VqaBatch: the loss of pre-training, as the batch's share of its step. */
export function vqaLoss(model: MaTVLM, batch: VqaBatch, options: PassOptions = {}, share: Share = WHOLE): Tensor {
  return scope(() => {
    const inputs = uploadVqa(model, batch);
    const out = forwardVqa(model, batch, inputs, model.visionFeatures(inputs.pixels), options);
    return times(nextTokenLoss(model.decoder.logits(out.questions.at(-1)!), batch.labels), share.answers);
  });
}

/** The student's loss on a VqaBatch: one pass of the shared tower, the teacher without recording, the student. */
export function distillVqa(
  teacher: MaTVLM,
  student: MaTVLM,
  batch: VqaBatch,
  loss: LossOptions,
  options: PassOptions = {},
  share: Share = WHOLE,
): LossParts {
  return scope(() => {
    const inputs = uploadVqa(student, batch);
    const features = noGrad(() => student.visionFeatures(inputs.pixels));
    const target = noGrad(() => scope(() => teacherTargets(teacher, batch, inputs, features, loss)));
    const out = forwardVqa(student, batch, inputs, features, options);
    const length = out.prefix.hidden[0].shape[1];
    const weights = prefixWeights(student, batch, length);
    return combine(loss, share, {
      kl: () => klVqa(student, batch, out, target, weights, loss),
      layer: () =>
        layerLoss(
          student,
          loss.layerKind,
          (i): LayerPair[] => {
            const run = (model: MaTVLM, from: readonly Segments[], o: PassOptions = {}): Segments =>
              layerVqa(model.decoder.layers[i], from[i].prefix, from[i].questions, inputs.owner, o);
            const own = segments(out);
            const [y, goal] =
              loss.layerKind === 'sl'
                ? [own[i + 1], noGrad(() => run(teacher, own))]
                : [run(student, target.hidden, options), target.hidden[i + 1]];
            return [
              [y.prefix, goal.prefix, weights],
              [y.questions, goal.questions],
            ];
          },
          ([prefix, questions]) => joinLosses(loss.layerKind === 'kl' ? 'kl' : 'l2', prefix, questions, batch, length),
        ),
      ce: () => nextTokenLoss(student.decoder.logits(out.questions.at(-1)!), batch.labels),
    });
  });
}

interface Segments {
  readonly prefix: Tensor;
  readonly questions: Tensor;
}

/** The residual stream of a pass, prefix and questions side by side. */
function segments({ prefix, questions }: VqaOutput): Segments[] {
  return prefix.hidden.map((p, i) => ({ prefix: p, questions: questions[i] }));
}

interface Targets {
  readonly hidden: Segments[];
  readonly logits: Segments;
}

function teacherTargets(
  teacher: MaTVLM,
  batch: VqaBatch,
  inputs: VqaInputs,
  features: Tensor,
  loss: LossOptions,
): Targets {
  const out = forwardVqa(teacher, batch, inputs, features);
  const hidden = segments(out);
  const last = hidden.at(-1)!;
  const questions = teacher.decoder.logits(last.questions);
  const prefix = loss.reduction === 'sum' ? teacher.decoder.logits(last.prefix) : questions;
  return { hidden, logits: { prefix, questions } };
}

function klVqa(
  student: MaTVLM,
  batch: VqaBatch,
  out: VqaOutput,
  target: Targets,
  prefixRows: Tensor | null,
  loss: LossOptions,
): Tensor {
  const { kind, temperature } = loss;
  const questions = student.decoder.logits(out.questions.at(-1)!);
  if (loss.reduction === 'mean') {
    const rows = answerWeights(batch.labels, batch.questions, batch.length);
    const weights = fromData(student.backend, rows, [batch.questions, batch.length]);
    return distillLoss(questions, target.logits.questions, { kind, temperature, reduction: 'mean' }, weights);
  }
  const prefix = student.decoder.logits(out.prefix.hidden.at(-1)!);
  const options = { kind, temperature, reduction: 'batchmean' as const };
  return joinLosses(
    kind,
    distillLoss(prefix, target.logits.prefix, options, prefixRows ?? undefined),
    distillLoss(questions, target.logits.questions, options),
    batch,
    prefix.shape[1],
  );
}

/** What a teacher says of a plain batch. */
export interface PlainTargets {
  readonly output: DecoderOutput & { spliced: Spliced };
  readonly logits: Tensor;
}

/** The student's loss on a plain batch of conversations, one image each. @param features the shared tower's output */
export function distillPlain(
  teacher: MaTVLM,
  student: MaTVLM,
  batch: TokenBatch,
  features: Tensor,
  loss: LossOptions,
  options: PassOptions = {},
): LossParts {
  return scope(() => {
    const target = noGrad(() => scope((): PlainTargets => {
      const output = teacher.forward(batch, features);
      return { output, logits: teacher.decoder.logits(output.hidden.at(-1)!) };
    }));
    const out = student.forward(batch, features, options);
    const { labels, mask, batch: b, length } = out.spliced;
    const logits = student.decoder.logits(out.hidden.at(-1)!);
    const { kind, temperature } = loss;
    return combine(loss, WHOLE, {
      kl: () => {
        if (loss.reduction === 'sum') {
          return distillLoss(logits, target.logits, { kind, temperature, reduction: 'batchmean' });
        }
        const weights = fromData(student.backend, answerWeights(labels, b, length), [b, length]);
        return distillLoss(logits, target.logits, { kind, temperature, reduction: 'mean' }, weights);
      },
      layer: () => {
        const keyMask = fromData(student.backend, mask, [b, length], 'i32');
        return layerLoss(
          student,
          loss.layerKind,
          (i) => {
            const run = (model: MaTVLM, from: readonly Tensor[], o: PassOptions = {}): Tensor =>
              model.decoder.layers[i].forward(from[i], null, { ...o, keyMask }, 0)[0];
            if (loss.layerKind === 'sl') return [[out.hidden[i + 1], noGrad(() => run(teacher, out.hidden))]];
            return [[run(student, target.output.hidden, options), target.output.hidden[i + 1]]];
          },
          ([only]) => only,
        );
      },
      ce: () => nextTokenLoss(logits, labels),
    });
  });
}

type Terms = Record<'kl' | 'layer' | 'ce', () => Tensor>;

/** The share that each term of the loss has: norms are no means over rows. */
function sharesOfTerms({ reduction, kind, layerKind }: LossOptions, share: Share): Record<keyof Terms, number> {
  return {
    kl: reduction === 'mean' ? share.answers : kind === 'l2' ? share.batches : share.questions,
    layer: layerKind === 'kl' ? share.questions : share.batches,
    ce: share.answers,
  };
}

/** Forms only the terms that have a weight. */
function combine(loss: LossOptions, share: Share, terms: Terms): LossParts {
  const shares = sharesOfTerms(loss, share);
  const kl = loss.klWeight ? times(terms.kl(), shares.kl) : null;
  const layer = loss.layerWeight ? times(terms.layer(), shares.layer) : null;
  const ce = loss.ceWeight ? times(terms.ce(), shares.ce) : null;
  const total = weightedSum([
    [loss.klWeight, kl],
    [loss.layerWeight, layer],
    [loss.ceWeight, ce],
  ]);
  return { total, kl, layer, ce };
}
