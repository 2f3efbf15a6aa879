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
  // Ours, where Linux has no name.
  cow_copy: 16,
  cow_reuse: 17,
  zero_page_map: 18,
  fork: 19,
} as const;
export type VmstatName = keyof typeof VMSTAT;
const COUNTERS = 32;

/** Counters of the whole arena; atomic words that wrap. */
export class Vmstat {
  readonly #words: Int32Array;
  readonly #at: number;

  constructor(sync: Sync) {
    this.#words = sync.words;
    this.#at = sync.arena.root(Root.vmstat);
  }

  /** Once per arena, before the first instance. */
  static init(sync: Sync, heap: Heap): void {
    sync.arena.setRoot(Root.vmstat, heap.alloc(COUNTERS));
  }

  add(name: VmstatName, by: number): void {
    Atomics.add(this.#words, this.#at + VMSTAT[name], by);
  }

  read(name: VmstatName): number {
    return Atomics.load(this.#words, this.#at + VMSTAT[name]) >>> 0;
  }

  /** All counters by name. */
  all(): Record<VmstatName, number> {
    const out = {} as Record<VmstatName, number>;
    for (const name of Object.keys(VMSTAT) as VmstatName[]) out[name] = this.read(name);
    return out;
  }
}
