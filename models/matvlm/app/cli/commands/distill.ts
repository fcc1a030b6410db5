import { defineCommand } from '../command.ts';
import { choice, count, number, optional, type Settings, text } from '../options/options.ts';
import { studentIdle, studentOptions } from '../options/student-options.ts';
import { trainingIdle, trainingOptions, TRAINING_EXTRAS } from '../options/training-options.ts';

export const distillTable = {
  teacher: text('folder of the teacher', 'teacher', '<folder>'),
  student: optional(text('folder of a student to begin with; made from the teacher when not set', '', '<folder>')),
  ...studentOptions,
  steps: optional(count('training steps; one epoch when not set', 1)),
  klWeight: number('weight of the loss on probabilities', 1, { min: 0 }),
  layerWeight: number('weight of the layer-wise loss', 1, { min: 0 }),
  ceWeight: number('weight of cross-entropy with the answers', 0, { min: 0 }),
  temperature: number('temperature of the loss on probabilities', 1, { above: 0 }),
  loss: choice('loss on probabilities', 'kl', ['kl', 'reverse', 'jsd', 'ce', 'l2']),
  layerLoss: choice(
    "layer-wise loss: l2 on the replaced layers, kl over all, sl with the teacher's layers on the student's states",
    'l2',
    ['l2', 'kl', 'sl'],
  ),
  reduction: choice('sum over all positions as published, or mean over answers', 'sum', ['sum', 'mean']),
  ...trainingOptions({
    name: 'distill',
    batch: 4,
    accumulate: 16,
    lr: 2e-4,
    weightDecay: 0.01,
    clip: 0.1,
    decay: 0.2,
    checkpointing: true,
  }),
};

type Given = Settings<typeof distillTable>;
const made = ({ student }: Given) => student !== null && `--student ${student} is made already`;
const unweighted = ({ klWeight }: Given) => klWeight === 0 && '--kl-weight is 0';

/** Flags that others leave without effect. */
const distillIdle = {
  ...trainingIdle,
  ...{ layers: made, init: made, identityConv: made, bias: made, loss: unweighted },
  ratio: (s: Given) => made(s) || studentIdle.ratio(s),
  temperature: (s: Given) =>
    unweighted(s) || (['ce', 'l2'].includes(s.loss) && `--loss ${s.loss} is computed without a temperature`),
  layerLoss: ({ layerWeight }: Given) => layerWeight === 0 && '--layer-weight is 0',
};

export default defineCommand({
  about:
    'Distils a Mamba–Transformer student from its teacher, in one stage: the mixers and the connector learn, all else ' +
    'is frozen and shared with the teacher. The defaults are the published recipe.',
  table: distillTable,
  yaml: true,
  extra: TRAINING_EXTRAS,
  idle: distillIdle,
  examples: [
    'distill --teacher runs/train --layers 0,4 --lr 3e-3 --steps 400',
    'distill -c run.yaml --lr 1e-3',
    'distill --student student-25 --teacher teacher --data sort-of-clevr,easy-vqa',
    'distill --resume runs/distill-2',
    'distill --dry-run',
  ],
  run: async (context) => (await import('./distill-command.ts')).distill(context),
});
