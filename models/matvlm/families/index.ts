/** The decoder families by `text_config.model_type`. */
import * as v from 'valibot';
import type { DecoderFamily } from './family.ts';
import { phi } from './phi.ts';
import type { TextConfig } from './text-config.ts';

const FAMILIES = { phi } satisfies Record<string, DecoderFamily>;
/** The family of files that do not say. */
const UNNAMED: keyof typeof FAMILIES = 'phi';

const known = Object.keys(FAMILIES) as (keyof typeof FAMILIES)[];
const NamedSchema = v.looseObject({ model_type: v.optional(v.picklist(known), UNNAMED) });

/** The schema of a `text_config`: its family's, or one that says which families there are. */
export const TextSchema = v.lazy((input): v.GenericSchema<unknown, TextConfig> => {
  const named = v.safeParse(NamedSchema, input);
  return named.success ? FAMILIES[named.output.model_type].schema : (NamedSchema as v.GenericSchema<unknown, unknown> as v.GenericSchema<unknown, never>);
});

/** The family of a decoder whose configuration was checked. */
export function familyOf(c: TextConfig): DecoderFamily {
  return FAMILIES[c.model_type as keyof typeof FAMILIES];
}
