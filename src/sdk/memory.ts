import { monotonicMs } from '../host/world.ts';
import { type MemoryStat, memoryStat } from '../inspect/mem-stat.ts';
import type { Guest, Host } from '../machine/host.ts';

export type { MemoryStat } from '../inspect/mem-stat.ts';

/** A guest's memory, in Linux's words. Reads shared counters; the guest does not notice. */
export class Memory {
  readonly #host: Host;
  readonly #guest: () => Guest | undefined;

  /** `guest` answers undefined before the guest is made and after its memory was given back. */
  constructor(host: Host, guest: () => Guest | undefined) {
    this.#host = host;
    this.#guest = guest;
  }

  /** All zero when the guest has no memory yet, or no more. */
  stat(): MemoryStat {
    return memoryStat(this.#host.mm, this.#guest()?.mm, monotonicMs());
  }

  /** Events since the start, by the names of /proc/vmstat; of all the guests of a Host. */
  vmstat(): Record<string, number> {
    return this.#host.mm.vmstat.all();
  }

  /** Everything countable in one flat record: what `--stats` writes. */
  counters(): Record<string, unknown> {
    return { ...this.vmstat(), ...this.#host.counters(), memory: this.stat() };
  }
}
