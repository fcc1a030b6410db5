import { scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { fromData, type Tensor } from '../../engine/tensor.ts';
import { distillLoss } from '../../ops/index.ts';
import type { DecoderOutput, PassOptions } from './layers/decoder.ts';
import { layerLoss, type LayerPair, type LossOptions, nextTokenLoss, times, weightedSum } from './losses.ts';
import type { MaTVLM } from './model.ts';
import { forwardVqa, joinLosses, layerVqa, type VqaOutput } from './shared-prefix.ts';
import type { Spliced, TokenBatch } from './splice.ts';
import { answerWeights, nextLabels, type VqaInputs } from './vqa-batch.ts';

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
export function vqaLoss(model: MaTVLM, inputs: VqaInputs, options: PassOptions = {}): Tensor {
  return scope(() => {
    const out = forwardVqa(model, inputs, model.visionFeatures(inputs.pixels), options);
    return times(nextTokenLoss(model.decoder.logits(out.questions.at(-1)!), inputs.targets), inputs.answerShare);
  });
}

/**
 * The student's loss on a VqaBatch, as the batch's share of its step: one pass of the shared tower, the teacher without
 * recording, the student.
 */
export function distillVqa(
  teacher: MaTVLM,
  student: MaTVLM,
  inputs: VqaInputs,
  loss: LossOptions,
  options: PassOptions = {},
): LossParts {
  return scope(() => {
    const features = noGrad(() => student.visionFeatures(inputs.pixels));
    const target = noGrad(() => scope(() => teacherTargets(teacher, inputs, features, loss)));
    const out = forwardVqa(student, inputs, features, options);
    return combine(loss, inputs, {
      kl: () => klVqa(student, inputs, out, target, loss),
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
              [y.prefix, goal.prefix, inputs.prefixWeights],
              [y.questions, goal.questions],
            ];
          },
          ([prefix, questions]) => joinLosses(loss.layerKind === 'kl' ? 'kl' : 'l2', prefix, questions, inputs),
        ),
      ce: () => nextTokenLoss(student.decoder.logits(out.questions.at(-1)!), inputs.targets),
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

function teacherTargets(teacher: MaTVLM, inputs: VqaInputs, features: Tensor, loss: LossOptions): Targets {
  const out = forwardVqa(teacher, inputs, features);
  const hidden = segments(out);
  const last = hidden.at(-1)!;
  const questions = teacher.decoder.logits(last.questions);
  const prefix = loss.reduction === 'sum' ? teacher.decoder.logits(last.prefix) : questions;
  return { hidden, logits: { prefix, questions } };
}

function klVqa(student: MaTVLM, inputs: VqaInputs, out: VqaOutput, target: Targets, loss: LossOptions): Tensor {
  const { kind, temperature } = loss;
  const questions = student.decoder.logits(out.questions.at(-1)!);
  if (loss.reduction === 'mean') {
    const options = { kind, temperature, reduction: 'mean' as const };
    return distillLoss(questions, target.logits.questions, options, inputs.answerWeights);
  }
  const prefix = student.decoder.logits(out.prefix.hidden.at(-1)!);
  const options = { kind, temperature, reduction: 'batchmean' as const };
  return joinLosses(
    kind,
    distillLoss(prefix, target.logits.prefix, options, inputs.prefixWeights),
    distillLoss(questions, target.logits.questions, options),
    inputs,
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
    return combine(loss, {}, {
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
      ce: () => {
        const targets = fromData(student.backend, nextLabels(labels, b, length), [b * (length - 1)], 'i32');
        return nextTokenLoss(logits, targets);
      },
    });
  });
}

type Terms = Record<'kl' | 'layer' | 'ce', () => Tensor>;

type Shares = Pick<VqaInputs, 'answerShare' | 'questionShare' | 'batchShare'>;

/** Forms only the terms that have a weight, each as its batch's share: norms are no means over rows. */
function combine(loss: LossOptions, { answerShare, questionShare, batchShare }: Shares, terms: Terms): LossParts {
  const byRows = loss.kind === 'l2' ? batchShare : questionShare;
  const kl = loss.klWeight ? times(terms.kl(), loss.reduction === 'mean' ? answerShare : byRows) : null;
  const layer = loss.layerWeight ? times(terms.layer(), loss.layerKind === 'kl' ? questionShare : batchShare) : null;
  const ce = loss.ceWeight ? times(terms.ce(), answerShare) : null;
  const total = weightedSum([
    [loss.klWeight, kl],
    [loss.layerWeight, layer],
    [loss.ceWeight, ce],
  ]);
  return { total, kl, layer, ce };
}
