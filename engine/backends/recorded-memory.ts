/**
 * The memory of one recording. What is taken while it is made stays its own, so that a replay finds every buffer where
 * it was: freed blocks are handed out again to the same recording only, and go back when it is disposed.
 */
export class RecordedMemory<Block, Size = number> {
  private readonly sizes = new Map<Block, Size>();
  private readonly idle = new Map<Size, Set<Block>>();

  /** A block of that size, an idle one or one that `make` makes. */
  take(size: Size, make: () => Block): Block {
    const same = this.idle.get(size);
    for (const block of same ?? []) {
      same!.delete(block);
      return block;
    }
    const block = make();
    this.sizes.set(block, size);
    return block;
  }

  /** @returns false for a block that is not this recording's */
  give(block: Block): boolean {
    const size = this.sizes.get(block);
    if (size === undefined) return false;
    const same = this.idle.get(size);
    if (same) same.add(block);
    else this.idle.set(size, new Set([block]));
    return true;
  }

  /** Ends it: what is idle goes to `free`, what tensors still hold is theirs from now on. */
  dispose(free: (block: Block) => void): void {
    for (const same of this.idle.values()) for (const block of same) free(block);
    this.idle.clear();
    this.sizes.clear();
  }
}
