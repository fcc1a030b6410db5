import type { Chart } from './chart.ts';

/** A value of a setting; lists and objects are shown as JSON. */
export type Setting = string | number | boolean | null | readonly Setting[] | { readonly [key: string]: Setting };

/** Shares of right answers by question kind. */
export interface AccuracyRow {
  readonly name: string;
  /** What the row is: published numbers stand apart from those that were measured here. */
  readonly source: 'teacher' | 'student' | 'before' | 'published';
  /** 0…1 by kind; a kind that is not there was not measured. */
  readonly scores: Readonly<Record<string, number>>;
}

export interface AccuracyTable {
  /** Question kinds, in the order of the columns. */
  readonly kinds: readonly string[];
  /** Questions asked of each kind. */
  readonly counts: Readonly<Record<string, number>>;
  readonly rows: readonly AccuracyRow[];
}

/** A test question with what was answered. */
export interface ReportSample {
  /** A `data:image/png;base64,` or jpeg URI. */
  readonly image: string;
  readonly kind: string;
  readonly question: string;
  readonly gold: string;
  /** Answers by model, in order. */
  readonly answers: readonly { readonly model: string; readonly text: string }[];
}

/** A model's size. */
export interface ModelSize {
  readonly name: string;
  /** Parameters by part of the model. */
  readonly parts: ReadonlyMap<string, number>;
  /** Parameters that were trained here; null for a model that was only asked. */
  readonly trained: number | null;
}

/** A number to show large. */
export interface Headline {
  readonly label: string;
  readonly value: string;
  readonly note?: string;
}

/** All that a report shows. */
export interface ReportData {
  readonly title: string;
  readonly summary?: string;
  /** What was run, to run it again. */
  readonly command?: string;
  readonly created?: Date;
  readonly headlines?: readonly Headline[];
  /** Evaluations along the way. */
  readonly learning?: {
    /** What each point was asked, and what its bar is. */
    readonly note: string;
    readonly charts: readonly Chart[];
  };
  readonly accuracy?: AccuracyTable;
  /** What was logged of each step. */
  readonly curves: readonly Chart[];
  readonly samples: readonly ReportSample[];
  readonly models?: readonly ModelSize[];
  readonly settings: Readonly<Record<string, Setting>>;
  readonly environment: Readonly<Record<string, string>>;
}
