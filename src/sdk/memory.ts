import { monotonicMs } from '../host/world.ts';
import { type MemoryStat, memoryStat } from '../inspect/mem-stat.ts';
import type { Host } from '../machine/host.ts';

export type { MemoryStat } from '../inspect/mem-stat.ts';

/** A guest's memory, in Linux's words. Reads shared counters; the guest does not notice. */
export class Memory {
  readonly #host: Host;

  constructor(host: Host) {
    this.#host = host;
  }

  stat(): MemoryStat {
    return memoryStat(this.#host.mm, this.#host.words, monotonicMs());
  }

  /** Events since the start, by the names of /proc/vmstat. */
  vmstat(): Record<string, number> {
    return this.#host.mm.vmstat.all();
  }

  /** Everything countable in one flat record: what `--stats` writes. */
  counters(): Record<string, unknown> {
    return { ...this.vmstat(), ...this.#host.counters(), memory: this.stat() };
  }
}
