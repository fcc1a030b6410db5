import { ArgumentError } from '../../engine/errors.ts';
import { IGNORE_LABEL, IMAGE_ID } from './template.ts';

/** Samples as the tokenizer gives them, padded on the right to one length. */
export interface TokenBatch {
  /** One image placeholder (−200) a sample at most. */
  readonly ids: readonly (readonly number[])[];
  /** −100 where a token is not to be learnt; all −100 when absent. */
  readonly labels?: readonly (readonly number[])[];
  /** 0 for padding; all 1 when absent. */
  readonly mask?: readonly (readonly number[])[];
}

/** Where each row of the spliced batch comes from. */
export interface Spliced {
  readonly batch: number;
  readonly length: number;
  /** Text ids of all samples, one after the other. */
  readonly textIds: Int32Array;
  /** (B·L): rows of [features | text | one zero row]. */
  readonly rows: Int32Array;
  /** (B·L), −100 for image and padding. */
  readonly labels: Int32Array;
  /** (B·L), 0 for padding. */
  readonly mask: Int32Array;
}

interface Row {
  readonly source: number;
  readonly label: number;
}

/**
 * Plans the replacement of each placeholder by `perImage` feature rows; sample i has image i.
 * @throws ArgumentError when a sample holds more than one placeholder
 */
export function spliceLayout(batch: TokenBatch, perImage: number): Spliced {
  const textIds: number[] = [];
  const features = batch.ids.length * perImage;
  const samples = batch.ids.map((ids, b) => {
    const rows: Row[] = [];
    if (ids.filter((id) => id === IMAGE_ID).length > 1) {
      throw new ArgumentError(`sample ${b} holds more than one image placeholder; one image a sample is supported`);
    }
    ids.forEach((id, i) => {
      if (batch.mask && !batch.mask[b][i]) return;
      if (id === IMAGE_ID) {
        for (let t = 0; t < perImage; t++) rows.push({ source: b * perImage + t, label: IGNORE_LABEL });
      } else {
        rows.push({ source: features + textIds.length, label: batch.labels?.[b][i] ?? IGNORE_LABEL });
        textIds.push(id);
      }
    });
    return rows;
  });
  const length = Math.max(...samples.map((s) => s.length));
  const pad = features + textIds.length;
  const size = samples.length * length;
  const rows = new Int32Array(size).fill(pad);
  const labels = new Int32Array(size).fill(IGNORE_LABEL);
  const mask = new Int32Array(size);
  samples.forEach((sample, b) =>
    sample.forEach((row, i) => {
      rows[b * length + i] = row.source;
      labels[b * length + i] = row.label;
      mask[b * length + i] = 1;
    }),
  );
  return { batch: samples.length, length, textIds: Int32Array.from(textIds), rows, labels, mask };
}
