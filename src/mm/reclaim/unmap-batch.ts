import type { Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmuNotifiers } from '../mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from '../mmu-notifier-ops.ts';

type Mm = Ptr<'mm'>;

/** Mappings that one batch may unmap: 32 pages, most of them mapped once. */
const CAPACITY = 256;

/**
 * Invalidations of reclaim that are begun and not yet ended: one flush serves them all (design 11). Per
 * thread, made once. Linux: tlb_ubc.
 */
export class UnmapBatch {
  readonly #notifiers: MmuNotifiers;
  readonly #breaks: MmBreaks;
  readonly #mms = new Int32Array(CAPACITY);
  readonly #pages = new Int32Array(CAPACITY);
  /** 1 for what the secondaries are not told of: in a test. */
  readonly #untold = new Uint8Array(CAPACITY);
  #count = 0;
  #late = 0;

  constructor(notifiers: MmuNotifiers, breaks: MmBreaks) {
    this.#notifiers = notifiers;
    this.#breaks = breaks;
  }

  /**
   * Takes note of a page whose `start` follows at once, unless a test leaves it out (`told`). False when it can't:
   * leave the page alone.
   */
  open(mm: Mm, page: Vpn, told = true): boolean {
    if (this.#count === CAPACITY || !this.#notifiers.tryOpenRange(mm)) return false;
    this.#untold[this.#count] = told ? 0 : 1;
    this.#mms[this.#count] = mm;
    this.#pages[this.#count++] = page;
    return true;
  }

  /** Waits until no vCPU can use what the batch unmapped; once for each mm. */
  flush(): void {
    for (let i = 0; i < this.#count; i++) {
      const mm = this.#mms[i] as Mm;
      if (this.#mms.indexOf(mm) === i) this.#notifiers.flush(mm);
    }
  }

  /** Sends the `end` of every invalidation, and is empty again. */
  end(): void {
    let kept = 0;
    for (let i = 0; i < this.#count; i++) {
      const [mm, page] = [this.#mms[i] as Mm, this.#pages[i] as Vpn];
      if (this.#untold[i] !== 0 && this.#breaks.onlyMarked) {
        this.#mms[kept] = mm;
        this.#pages[kept++] = page;
        continue;
      }
      if (this.#untold[i] === 0) this.#notifiers.pageEnd(mm, page, NotifyEvent.Clear);
      this.#notifiers.closeRange(mm);
    }
    this.#count = 0;
    this.#late = kept;
  }

  /** For the broken variant: what nobody was told before, they hear now. */
  tellLate(): void {
    for (let i = 0; i < this.#late; i++) {
      const [mm, page] = [this.#mms[i] as Mm, this.#pages[i] as Vpn];
      this.#notifiers.pageStart(mm, page, NotifyEvent.Clear, NotifyFlag.Blockable);
      this.#notifiers.pageEnd(mm, page, NotifyEvent.Clear);
      this.#notifiers.closeRange(mm);
    }
    this.#late = 0;
  }
}
