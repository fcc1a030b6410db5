/** What the page asks of its worker, and what comes back. */

export type BackendChoice = 'webgpu' | 'wasm';

/** What this browser can run models on. */
export interface Probe {
  /** Null where there is no adapter; `why` then says so. */
  readonly webgpu: { readonly description: string; readonly software: boolean } | null;
  readonly why: string;
}

/** A model, ready to be asked. */
export interface ModelInfo {
  readonly parameters: number;
  /** The mixers of the decoder's layers, from the first to the last. */
  readonly layers: readonly ('attention' | 'mamba')[];
  /** The backend in words. */
  readonly backend: string;
}

/** How far a load is. */
export interface LoadEvent {
  readonly stage: 'weights' | 'warm-up';
  readonly loaded: number;
  readonly total: number;
}

/** An image file's bytes; the worker keeps the decoded pixels of the last id. */
export interface ImageFile {
  readonly id: number;
  readonly bytes: ArrayBuffer;
}

/** What is seen of an image before anything is asked about it. */
export interface Looked {
  /** The share of its pixels that are in its commonest colours: see `flatness`. */
  readonly flatness: number;
}

/** A checkpoint folder on the server. */
export interface ModelFolder {
  readonly url: string;
  /** The files that are there: others need not be asked for. */
  readonly files: readonly string[];
}

/** A question to one model. */
export interface Question {
  readonly prompt: string;
  readonly maxNewTokens: number;
  /** 0 takes the likeliest word each time. */
  readonly temperature: number;
}

/** An answer and what it cost. */
export interface Answer {
  readonly text: string;
  /** Words of the question that the model has no token for. */
  readonly unknownWords: readonly string[];
  /** Milliseconds. */
  readonly timeToFirstToken: number;
  /** After the first token; 0 where there was no second. */
  readonly tokensPerSecond: number;
  readonly newTokens: number;
  readonly promptTokens: number;
  /** Bytes that the model's memory of this conversation took. */
  readonly cacheBytes: number;
  /** Bytes by which one more token lets it grow. */
  readonly cacheBytesPerToken: number;
  readonly aborted: boolean;
}

/** Commands by name: what is sent along, what comes back, what is told on the way. */
export interface Commands {
  probe: { send: object; result: Probe; event: never };
  look: { send: { image: ImageFile }; result: Looked; event: never };
  load: { send: { backend: BackendChoice; model: ModelFolder }; result: ModelInfo; event: LoadEvent };
  answer: {
    send: { backend: BackendChoice; model: ModelFolder; image: ImageFile | null; question: Question };
    result: Answer;
    event: { piece: string };
  };
}

export type CommandName = keyof Commands;

/**
 * What kind of failure an error is, for the page to act on: the caller stopped it, the GPU went away, there is none,
 * or something else, which its message tells. (Names of classes do not survive minifying.)
 */
export type FailureKind = 'stopped' | 'gpu lost' | 'no gpu' | 'other';

/** To the worker. */
export type Request =
  | { [N in CommandName]: { readonly id: number; readonly name: N } & Commands[N]['send'] }[CommandName]
  | { readonly id: number; readonly name: 'abort' };

/** From the worker; `lost` comes unasked when the GPU goes away. */
export type Reply =
  | { readonly id: number; readonly event: unknown }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: { readonly kind: FailureKind; readonly message: string } }
  | { readonly lost: string };
