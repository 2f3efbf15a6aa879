import type { Pfn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';

// What reclaim asks of the rest of the mm. page.ts, rmap.ts and mmu-notifier.ts satisfy these.

/** The table of struct pages. */
export type PagesPort = {
  at(pfn: Pfn): Ptr<'page'>;
  get(pfn: Pfn): void;
  /** Takes a reference unless there is none: the page is then being freed. */
  tryGet(pfn: Pfn): boolean;
  /** Drops a reference; the last frees the page, so no leaf lock may be held. */
  put(pfn: Pfn): void;
  lock(pfn: Pfn): void;
  tryLock(pfn: Pfn): boolean;
  unlock(pfn: Pfn): void;
};

/** Zeroed words of the arena's heap that live as long as the Host. */
export type WordsPort = { alloc(words: number): number };

/** The reverse map, as reclaim uses it. `B` is rmap.ts's batch of unmappings. */
export type RmapPort<B extends UnmapBatchPort> = {
  /** How many mappings used the page, their accessed bits and the secondaries' cleared (M-34). */
  pageReferenced(pfn: Pfn): number;
  /** Turns every pte of a locked page into a swap entry (M-32), its invalidations left open in the batch. */
  tryToUnmap(pfn: Pfn, batch: B): 'unmapped' | 'busy';
};

/** Invalidations begun and not yet flushed. */
export type UnmapBatchPort = {
  /** Waits until no vCPU can use what the batch unmapped. */
  flush(): void;
  /** Sends the `end` of every invalidation, and is empty again. */
  end(): void;
  /** In a test that leaves notifications out: makes up for them, before the frames are freed. */
  tellLate?(): void;
};
