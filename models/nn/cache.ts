import type { Backend } from '../../engine/backend.ts';
import { byteLength } from '../../engine/dtype.ts';
import { expectWhole } from '../../engine/arguments.ts';
import { ArgumentError } from '../../engine/errors.ts';
import { keep, scope } from '../../engine/scope.ts';
import { noGrad } from '../../engine/tape.ts';
import { empty, fromData, type Tensor, update } from '../../engine/tensor.ts';
import { attention, attentionStep_, cast, clone, copy_, increment_, rope, type RopeOptions, sliceScatter_, zeros } from '../../ops/index.ts';

/** Positions that a cache's room grows by. */
const ROOM = 256;

/** Where a pass's tokens stand, as data on the device: a captured pass goes on at another place each time. */
export interface Positions {
  /** (1) i32: the position of the pass's first token. */
  readonly first: Tensor;
  /** (1) i32: how many positions there are with the pass's own. */
  readonly end: Tensor;
  /** Positions before the pass, as the host counts them. */
  readonly length: number;
  /** Positions that there is room for. */
  readonly capacity: number;
}

/** Keys and values of an attention layer, (B, capacity, KV, Dh), of which the first positions are in use. */
export class KeyValueCache {
  readonly kind = 'attention';
  private held: { readonly k: Tensor; readonly v: Tensor } | null = null;

  constructor(readonly positions: Positions) {}

  get bytes(): number {
    return sizeOf(this.held?.k) + sizeOf(this.held?.v);
  }

  /** Keys and values with the room behind them, for ops that change them in place; null before any token. */
  get state(): { readonly k: Tensor; readonly v: Tensor } | null {
    return this.held;
  }

  /**
   * Writes the keys and values of a pass behind those of the positions before.
   * @param k (B, L, KV, Dh), and so is v
   * @returns all there are so far; with `keyCount` where there is room behind them
   */
  append(k: Tensor, v: Tensor): { k: Tensor; v: Tensor; keyCount?: Tensor } {
    const { length, first, end } = this.positions;
    this.held ??= this.room(k, v);
    sliceScatter_(this.held.k, k, 1, first);
    sliceScatter_(this.held.v, v, 1, first);
    return length === 0 ? { k, v } : { ...this.held, keyCount: end };
  }

  /**
   * Causal attention of a pass, behind the positions before it, once queries and keys are turned by their positions and
   * keys and values are appended.
   * @param pass q (B, L, H, Dh), k and v as in `append`
   * @returns (B, L, H, Dh)
   */
  attend(
    { q, k, v }: Readonly<Record<'q' | 'k' | 'v', Tensor>>,
    turn: Required<Pick<RopeOptions, 'rotaryDim' | 'theta'>>,
  ): Tensor {
    const { first, end } = this.positions;
    if (this.held && q.shape[1] === 1 && [q, k, v, this.held.k].every(({ dtype }) => dtype === 'f32')) {
      return attentionStep_({ q, k, v, keys: this.held.k, values: this.held.v, first, end }, turn);
    }
    const options = { ...turn, start: first, layout: 'blhd' } as const;
    const { keyCount, ...all } = this.append(rope(k, options), v);
    return attention(rope(q, options), all.k, all.v, { causal: true, layout: 'blhd', keyCount });
  }

  /** Moves to memory of the capacity that there is now. */
  grow(): void {
    if (!this.held) return;
    const { k, v } = this.held;
    const larger = this.room(k, v);
    sliceScatter_(larger.k, k, 1, 0);
    sliceScatter_(larger.v, v, 1, 0);
    this.dispose();
    this.held = larger;
  }

  /** Nothing: keys and values stay where they are until others are written over them. */
  snapshot(): Tensor[] {
    return [];
  }

  restore(): void {}

  dispose(): void {
    this.held?.k.dispose();
    this.held?.v.dispose();
    this.held = null;
  }

  /** Room for keys and values alike: for both, or where one fails for neither. */
  private room(...alike: [k: Tensor, v: Tensor]): { readonly k: Tensor; readonly v: Tensor } {
    return scope(() => {
      const [k, v] = alike.map(({ backend, shape: [b, , ...rest], dtype }) =>
        empty(backend, [b, this.positions.capacity, ...rest], dtype),
      );
      return { k: keep(k), v: keep(v) };
    });
  }
}

/** What a recurrent layer keeps: the last columns of its convolution and its state, both of a fixed size, in f32. */
export class RecurrentCache {
  readonly kind = 'mamba';
  private held: { readonly conv: Tensor; readonly ssm: Tensor } | null = null;

  get bytes(): number {
    return sizeOf(this.held?.conv) + sizeOf(this.held?.ssm);
  }

  /** Convolution columns (B, K−1, C) and state (B, H, P, N), for ops that change them in place; null before any token. */
  get state(): { readonly conv: Tensor; readonly ssm: Tensor } | null {
    return this.held;
  }

  /** Takes up the state after a pass. */
  set(conv: Tensor, ssm: Tensor): void {
    if (this.held) {
      copy_(this.held.conv, cast(conv, 'f32'));
      copy_(this.held.ssm, cast(ssm, 'f32'));
    } else {
      const [columns, state] = [clone(cast(conv, 'f32')), clone(cast(ssm, 'f32'))];
      this.held = { conv: keep(columns), ssm: keep(state) };
    }
  }

  grow(): void {}

  snapshot(): Tensor[] {
    return this.held ? [clone(this.held.conv), clone(this.held.ssm)] : [];
  }

  restore([conv, ssm]: readonly Tensor[]): void {
    if (conv) this.set(conv, ssm);
    else if (this.held) for (const t of Object.values(this.held)) copy_(t, zeros(t.backend, t.shape));
  }

  dispose(): void {
    this.held?.conv.dispose();
    this.held?.ssm.dispose();
    this.held = null;
  }
}

/** What a layer remembers of the positions before, written in place. */
export type LayerCache = KeyValueCache | RecurrentCache;

/** The state of a cache at one moment. Its tensors are freed by `dispose`. */
export interface CacheSnapshot {
  readonly length: number;
  dispose(): void;
}

interface Saved extends CacheSnapshot {
  readonly layers: readonly (readonly Tensor[])[];
}

/**
 * What a decoder remembers of the positions that it has seen, in memory that is written in place: room for keys and
 * values is there beforehand, 256 positions at a time, and the states of recurrent layers change where they are. Where
 * the next token stands is data on the device, so that a decoding step can be captured once and replayed.
 */
export class DecoderCache implements Positions {
  readonly first: Tensor;
  readonly end: Tensor;
  readonly layers: readonly LayerCache[];
  private used = 0;
  private room = 0;
  /** Whether recurrent states may be of another position than `used`. */
  private torn = false;
  private readonly snapshots = new Set<Saved>();

  /**
   * @param kinds what each layer is
   * @param context most positions
   */
  constructor(
    backend: Backend,
    kinds: readonly LayerCache['kind'][],
    readonly context: number,
  ) {
    const [first, end] = scope(() => [fromData(backend, [0], [1], 'i32'), fromData(backend, [0], [1], 'i32')]);
    this.first = keep(first);
    this.end = keep(end);
    this.layers = kinds.map((kind) => (kind === 'attention' ? new KeyValueCache(this) : new RecurrentCache()));
  }

  get length(): number {
    return this.used;
  }

  get capacity(): number {
    return this.room;
  }

  /** Bytes that it holds on the device. */
  get bytes(): number {
    return this.layers.reduce((sum, layer) => sum + layer.bytes, sizeOf(this.first) + sizeOf(this.end));
  }

  /**
   * Makes room for `positions` in all, rounded up to a multiple of `step`.
   * @returns whether tensors moved: what was captured with them must be captured again
   * @throws ArgumentError for more than the context
   */
  reserve(positions: number, step = ROOM): boolean {
    expectWhole('reserve', 'positions', positions);
    if (positions <= this.room) return false;
    if (positions > this.context) {
      throw new ArgumentError(`${positions} positions are more than the context of ${this.context}; ask something shorter`);
    }
    const before = this.room;
    this.room = Math.min(Math.ceil(positions / step) * step, this.context);
    try {
      quietly(() => this.layers.forEach((layer) => layer.grow()));
    } catch (error) {
      this.room = before;
      throw error;
    }
    return this.used > 0;
  }

  /**
   * Runs a pass of `tokens` positions: in `body`, layers append to their caches. Where it fails there are as many as
   * before, but the states of recurrent layers may have gone on: then only `restore` and `truncate(0)` go back.
   * @throws ArgumentError for more than the context, and behind such a failure
   */
  append<T>(tokens: number, body: () => T): T {
    if (this.torn) throw new ArgumentError('append: the pass before failed midway; restore a snapshot, or truncate(0)');
    expectWhole('append', 'tokens', tokens, 1);
    this.reserve(this.used + tokens);
    return quietly(() => {
      increment_(this.end, tokens, this.first);
      try {
        const result = body();
        this.used += tokens;
        return result;
      } catch (error) {
        this.torn = this.layers.some(({ kind }) => kind === 'mamba');
        increment_(this.end, -tokens);
        throw error;
      }
    });
  }

  /** Counts a position that the replay of a captured pass appended. */
  countReplayed(): void {
    this.used++;
  }

  /**
   * Forgets the positions from `length` on.
   * @throws ArgumentError where a recurrent layer has seen them, which goes back to a snapshot only, and where there are
   *   not as many
   */
  truncate(length: number): void {
    if (!Number.isInteger(length) || length < 0 || length > this.used) {
      throw new ArgumentError(`truncate: length is ${length}, expected 0 to ${this.used}`);
    }
    if (length > 0 && (length < this.used || this.torn) && this.layers.some(({ kind }) => kind === 'mamba')) {
      throw new ArgumentError('truncate: a state-space layer cannot forget its last tokens; restore a snapshot');
    }
    if (length === 0) quietly(() => this.layers.forEach((layer) => layer.restore([])));
    this.goTo(length);
  }

  /** Remembers this moment, to `restore` it as often as one likes, until the cache forgets positions before it. */
  snapshot(): CacheSnapshot {
    const layers = quietly(() => this.layers.map((layer) => layer.snapshot()));
    for (const t of layers.flat()) keep(t);
    const saved: Saved = {
      length: this.used,
      layers,
      dispose: () => {
        this.snapshots.delete(saved);
        for (const t of layers.flat()) t.dispose();
      },
    };
    this.snapshots.add(saved);
    return saved;
  }

  /** Goes back to a snapshot. @throws ArgumentError for one that is not this cache's any more */
  restore(snapshot: CacheSnapshot): void {
    const saved = snapshot as Saved;
    if (!this.snapshots.has(saved)) {
      throw new ArgumentError('restore: this snapshot was disposed, belongs to another cache, or lies behind a truncation');
    }
    quietly(() => this.layers.forEach((layer, i) => layer.restore(saved.layers[i])));
    this.goTo(saved.length);
  }

  dispose(): void {
    for (const snapshot of this.snapshots) snapshot.dispose();
    for (const layer of this.layers) layer.dispose();
    this.first.dispose();
    this.end.dispose();
  }

  private goTo(length: number): void {
    for (const snapshot of this.snapshots) if (snapshot.length > length) snapshot.dispose();
    this.used = length;
    this.torn = false;
    update(this.end, [length]);
  }
}

function sizeOf(tensor: Tensor | null | undefined): number {
  return tensor ? byteLength(tensor.dtype, tensor.size) : 0;
}

/** Runs what has no gradient and frees what it does not return. */
function quietly<T>(body: () => T): T {
  return noGrad(() => scope(body));
}
