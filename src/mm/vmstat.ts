import { Root } from '../sync/arena.ts';
import type { Sync } from '../sync/sync.ts';
import type { Heap } from './heap.ts';

/** Event counters by the names of /proc/vmstat (M-37), and where each lies. */
export const VMSTAT = {
  pgfault: 0,
  pgmajfault: 1,
  pswpin: 2,
  pswpout: 3,
  pgfree: 4,
  pglazyfree: 5,
  pglazyfreed: 6,
  pgscan: 7,
  pgsteal: 8,
  pgactivate: 9,
  pgdeactivate: 10,
  workingset_refault_anon: 11,
  workingset_activate_anon: 12,
  pgrotated: 13,
  allocstall: 14,
  oom_kill: 15,
  numa_pte_updates: 40,
  numa_hint_faults: 41,
  cow_ksm: 42,
  ksm_swpin_copy: 43,
  // Ours, where Linux has no name.
  cow_copy: 16,
  cow_reuse: 17,
  zero_page_map: 18,
  fork: 19,
  thp_fault_alloc: 20,
  thp_fault_fallback: 21,
  thp_fault_fallback_charge: 22,
  thp_collapse_alloc: 23,
  thp_collapse_alloc_failed: 24,
  thp_split_pmd: 25,
  thp_zero_page_alloc: 26,
  thp_zero_page_alloc_failed: 27,
  thp_scan_exceed_none_pte: 28,
  thp_scan_exceed_swap_pte: 29,
  thp_scan_exceed_share_pte: 30,
} as const;
export type VmstatName = keyof typeof VMSTAT;
/** Words of a row: the next row, then the counters. */
const ROW_WORDS = 64;
const NEXT = 0;
const FIRST = 1;

/**
 * Counters of the whole arena, modulo 2^32. Each thread counts in a row of its own, which it alone writes:
 * plainly, as a fault counts and an atomic costs ten nanoseconds. Rows stay when their threads go. Linux:
 * vm_event_states.
 */
export class Vmstat {
  readonly #words: Int32Array;
  readonly #head: number;
  readonly #row: number;

  constructor(sync: Sync, heap: Heap) {
    this.#words = sync.words;
    this.#head = sync.arena.rootAt(Root.vmstat);
    this.#row = heap.alloc(ROW_WORDS);
    for (;;) {
      const first = Atomics.load(this.#words, this.#head);
      this.#words[this.#row + NEXT] = first;
      if (Atomics.compareExchange(this.#words, this.#head, first, this.#row) === first) break;
    }
  }

  add(name: VmstatName, by: number): void {
    this.#words[this.#row + FIRST + VMSTAT[name]]! += by;
  }

  read(name: VmstatName): number {
    let sum = 0;
    for (
      let row = Atomics.load(this.#words, this.#head);
      row !== 0;
      row = this.#words[row + NEXT] as number
    ) {
      sum += this.#words[row + FIRST + VMSTAT[name]] as number;
    }
    return sum >>> 0;
  }

  /** All counters by name. */
  all(): Record<VmstatName, number> {
    const out = {} as Record<VmstatName, number>;
    for (const name of Object.keys(VMSTAT) as VmstatName[]) out[name] = this.read(name);
    return out;
  }
}
