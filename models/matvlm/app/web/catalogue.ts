/** A model that the page can load. */
export interface CatalogueModel {
  readonly name: string;
  /** A student has Mamba-2 layers. */
  readonly role: 'teacher' | 'student';
  /** Its checkpoint folder. */
  readonly url: string;
  /** The files that are served of it. */
  readonly files: readonly string[];
  /** What pictures it was trained on, in words; null where its card does not tell, or tells of others. */
  readonly pictures: readonly string[] | null;
}

/** An image that the page offers, with questions whose answers are known. */
export interface CatalogueExample {
  readonly alt: string;
  readonly url: string;
  readonly questions: readonly { readonly question: string; readonly answer: string; readonly kind: string }[];
}

/** What `/api/models.json` holds. */
export interface Catalogue {
  readonly models: readonly CatalogueModel[];
  readonly examples: readonly CatalogueExample[];
}
