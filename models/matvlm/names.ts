/** What a parameter is, by its name in the state dict. */
import { familyOf } from './families/index.ts';
import type { TextConfig } from './families/text-config.ts';

/** What a Mamba-2 mixer's parameters stand below in a layer, whatever the decoder's family. */
export const MIXER = 'mamba';
export const EMBEDDING = 'language_model.model.embed_tokens.weight';
const HEAD = 'language_model.lm_head.';
const CONNECTOR = 'connector.';
const TOWER = 'vision_tower.';

/** The full name of a decoder layer's parameter. */
export function layerParameter(layer: number, part: string, name: string): string {
  return `language_model.model.layers.${layer}.${part}.${name}`;
}

/** Layer and part of a decoder layer's parameter, such as 3 and `mlp`; null for others. */
function inLayer(name: string): { readonly layer: number; readonly part: string } | null {
  const found = /^language_model\.model\.layers\.(\d+)\.([^.]+)\./.exec(name);
  return found && { layer: Number(found[1]), part: found[2] };
}

/** Whether the parameter is a Mamba-2 mixer's. */
export function isMixer(name: string): boolean {
  return inLayer(name)?.part === MIXER;
}

/** Parameters that distillation trains: the mixers and the connector. */
export function isTrainable(name: string): boolean {
  return isMixer(name) || name.startsWith(CONNECTOR);
}

/** Tells the attention weights of layers that are to be replaced. */
export function replacedIn(c: TextConfig, layers: readonly number[]): (name: string) => boolean {
  const { at } = familyOf(c).attention;
  return (name) => {
    const found = inLayer(name);
    return found !== null && found.part === at && layers.includes(found.layer);
  };
}

/** Parts of a model that parameters are counted by, in order. */
export const PARTS = ['vision tower', 'connector', 'embedding', 'attention', 'mamba', 'mlp', 'norms', 'head'] as const;
export type Part = (typeof PARTS)[number];

/** The part that a parameter belongs to. */
export function partOf(name: string, c: TextConfig): Part {
  if (name.startsWith(TOWER)) return 'vision tower';
  if (name.startsWith(CONNECTOR)) return 'connector';
  if (name.startsWith(HEAD)) return 'head';
  if (name === EMBEDDING) return 'embedding';
  const { attention, mlp } = familyOf(c);
  const parts: Readonly<Record<string, Part>> = { [attention.at]: 'attention', [MIXER]: 'mamba', [mlp]: 'mlp' };
  return parts[inLayer(name)?.part ?? ''] ?? 'norms';
}
