import { assert } from '../../base/assert.ts';
import type { Pfn } from '../../base/units.ts';
import type { FramePort } from './swap-backend.ts';

/**
 * A handful of frames on their way between the frame allocator, which takes 'zone', and the pool, which is
 * under 'zram': siblings of the lock order, so frames are fetched before and given back after. One per
 * thread, empty between operations.
 */
export class FrameStash {
  readonly #pfns = new Int32Array(64);
  #count = 0;
  readonly #port: FramePort;

  constructor(port: FramePort) {
    this.#port = port;
  }

  get count(): number {
    return this.#count;
  }

  take(): Pfn {
    assert(this.#count > 0, 'frame stash: empty');
    return this.#pfns[--this.#count] as number;
  }

  put(pfn: Pfn): void {
    assert(this.#count < this.#pfns.length, 'frame stash: full');
    this.#pfns[this.#count++] = pfn;
  }

  /** Fetches until it holds `count` frames; false when the allocator has no more. No leaf lock held. */
  fill(count: number): boolean {
    while (this.#count < count) {
      const pfn = this.#port.allocFrame();
      if (pfn < 0) return false;
      this.put(pfn);
    }
    return true;
  }

  /** Gives everything back. No leaf lock held. */
  drain(): void {
    while (this.#count > 0) this.#port.freeFrame(this.take());
  }
}
