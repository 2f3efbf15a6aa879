import { FaultlineError } from '../base/error.ts';
import { formatSize } from '../base/size.ts';
import { monotonicMs } from '../host/world.ts';
import { type MemoryStat, memoryStat } from '../inspect/mem-stat.ts';
import type { Host } from '../machine/host.ts';
import type { Driver } from './driver.ts';
import { bytes, type Size } from './size.ts';

export type { MemoryStat } from '../inspect/mem-stat.ts';

/** What a guest's memory needs of whoever runs it. */
export type MemoryDriver = Pick<Driver, 'guest' | 'balloonBytes' | 'setBalloon'>;

/** A guest's memory, in Linux's words. Reads shared counters; the guest does not notice. */
export class Memory {
  readonly #host: Host;
  readonly #driver: MemoryDriver;

  constructor(host: Host, driver: MemoryDriver) {
    this.#host = host;
    this.#driver = driver;
  }

  /**
   * How much of its memory the guest shall do without, in bytes, or as text such as '64M'. It follows in its
   * own time, as far as it can: `stat().balloonBytes` tells. Throws E_USAGE for a guest without a balloon.
   */
  setBalloon(size: Size): void {
    const wanted = bytes(size);
    if (wanted > (this.#driver.guest()?.bytes ?? 0) || !this.#driver.setBalloon(wanted)) {
      throw new FaultlineError('E_USAGE', `a balloon of ${formatSize(wanted)} cannot be`, {
        hint: "balloon: 'free-page-reporting', and less than the guest's memory",
      });
    }
  }

  /** All zero when the guest has no memory yet, or no more. */
  stat(): MemoryStat & { balloonBytes: number } {
    const stat = memoryStat(this.#host.mm, this.#driver.guest()?.mm, monotonicMs());
    return { ...stat, balloonBytes: this.#driver.balloonBytes() };
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
