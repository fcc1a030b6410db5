import { choice, number, numbers, optional, type Settings, toggle } from './options.ts';

/** How a student is made from its teacher. */
export const studentOptions = {
  layers: optional(
    numbers('decoder layers to replace, such as 0,4; else --ratio says which', [], { min: 0, whole: true }),
  ),
  ratio: number('share of the decoder layers to replace, evenly spread', 0.25, { above: 0, max: 1 }),
  init: choice('where the projections of the mixers come from', 'attention', ['attention', 'random']),
  identityConv: toggle('start the convolutions as the identity in place of noise', false),
  bias: toggle('give the projections of the mixers biases', false),
};

/** Flags of `studentOptions` that others leave without effect. */
export const studentIdle = {
  ratio: ({ layers }: Pick<Settings<typeof studentOptions>, 'layers'>) =>
    layers !== null && `the layers are given, ${layers.join(',')}`,
};
