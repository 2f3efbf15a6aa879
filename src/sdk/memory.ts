import { Errno } from '../base/errno.ts';
import { FaultlineError } from '../base/error.ts';
import { formatSize } from '../base/size.ts';
import { MIB, PAGE_SIZE } from '../base/units.ts';
import { monotonicMs, nextTurn } from '../host/world.ts';
import { type MemoryStat, memoryStat } from '../inspect/mem-stat.ts';
import { memcgText } from '../inspect/memcg-text.ts';
import { meminfo } from '../inspect/meminfo.ts';
import { smaps, smapsRollup } from '../inspect/smaps.ts';
import { vmstatText } from '../inspect/vmstat-text.ts';
import type { Guest, Host } from '../machine/host.ts';
import { RAM_BASE } from '../machine/memory-map.ts';
import type { UserFaultMode } from '../machine/user-faults.ts';
import type { Driver } from './driver.ts';
import { bytes, LIMIT_MIN, type Size } from './size.ts';
import { parseSmaps, type SmapsMapping } from './smaps-mapping.ts';
import { type FaultHandler, type Range, Uffd, type UserfaultOptions } from './userfault.ts';

export type { MemoryStat } from '../inspect/mem-stat.ts';

/** Advice by its Linux name, without MADV_. */
export type MemoryAdvice =
  | ('cold' | 'pageout' | 'dontneed' | 'willneed')
  | ('mergeable' | 'unmergeable' | 'hugepage' | 'nohugepage');

/** Shares of time that work waited for memory, in percent, and the sum, in microseconds. Linux: PSI. */
export type PsiLine = { avg10: number; avg60: number; avg300: number; totalUs: number };
export type Pressure = { some: PsiLine; full: PsiLine };

/** What a guest's memory is made of, what it has given away, and what programs were asked for. */
export type GuestMemoryStat = MemoryStat & { balloonBytes: number; userfaults: number };

/** Files of Linux that a guest's memory has here, as text. */
export type MemoryFile = 'smaps' | 'smaps_rollup' | 'vmstat' | 'meminfo' | `memory.${string}`;

/** What a guest's memory needs of whoever runs it. */
export type MemoryDriver = Pick<Driver, 'guest' | 'balloonBytes' | 'setBalloon'>;

/** Done before others get a turn. */
const STEP_BYTES = 4 * MIB;
/** Advice about a mapping rather than its pages. */
const FLAGS: ReadonlySet<MemoryAdvice> = new Set(['mergeable', 'unmergeable', 'hugepage', 'nohugepage']);

/** A guest's memory, in Linux's words. What only reads does not disturb the guest. */
export class Memory {
  readonly #host: Host;
  readonly #driver: MemoryDriver;
  readonly #initial: (address: number) => Uint8Array;
  readonly #managers: Uffd[] = [];

  /** `initial`: a page of RAM as the guest finds it when it starts. */
  constructor(host: Host, driver: MemoryDriver, initial?: (address: number) => Uint8Array) {
    this.#host = host;
    this.#driver = driver;
    this.#initial = initial ?? (() => new Uint8Array(PAGE_SIZE));
  }

  /**
   * Supplies what is missing of a range, or hears of writes to it: `handler` is asked for each page when the guest,
   * or a device of it, comes to it, and answers by `copy` and its like. What the guest has given away by its
   * balloon or reported free is zero from then on, and not asked for. Throws Errno: EINVAL for what is not whole
   * pages of RAM or 'minor', EBUSY where somebody else is asked.
   */
  async userfault(
    range: Range,
    handler: FaultHandler,
    options: UserfaultOptions | UserFaultMode = {},
  ): Promise<Uffd> {
    const o = typeof options === 'string' ? { mode: options } : options;
    const uffd = new Uffd(this.#host, this.#guest(), handler, this.#initial, o);
    try {
      uffd.arm(range, o.mode ?? 'missing');
    } catch (error) {
      uffd.close();
      throw error;
    }
    this.#managers.push(uffd);
    return uffd;
  }

  /** Why a manager of user faults has died, if one has. */
  get failure(): FaultlineError | undefined {
    return this.#managers.find(manager => manager.failure !== undefined)?.failure;
  }

  /** The guest has ended: nobody asks any more. */
  close(): void {
    for (const manager of this.#managers) manager.close();
  }

  /** Where the guest has RAM. */
  get ram(): Range {
    return { start: RAM_BASE, length: this.#driver.guest()?.bytes ?? 0 };
  }

  /** All zero when the guest has no memory yet, or no more. */
  stat(): GuestMemoryStat {
    const stat = memoryStat(this.#host.mm, this.#driver.guest()?.mm, monotonicMs());
    const userfaults = this.#managers.reduce((sum, manager) => sum + manager.count, 0);
    return { ...stat, balloonBytes: this.#driver.balloonBytes(), userfaults };
  }

  /** Events since the start, by the names of /proc/vmstat; of all the guests of a Host. */
  vmstat(): Record<string, number> {
    return this.#host.mm.vmstat.all();
  }

  /** The mappings that hold the guest's RAM, as /proc/PID/smaps tells of them; sizes in bytes. */
  smaps(): SmapsMapping[] {
    return parseSmaps(this.read('smaps'));
  }

  /** How long work for this guest has waited for memory. */
  pressure(): Pressure {
    const { mm } = this.#host;
    return mm.memcgFiles.pressure(mm.layout.mm.memcg.get(this.#guest().mm));
  }

  /**
   * A file of Linux's, byte for byte: smaps and smaps_rollup of /proc/PID for the guest's memory, /proc/vmstat and
   * /proc/meminfo for the Host, memory.* of its cgroup for the guest. Throws E_USAGE for one there is not.
   */
  read(file: MemoryFile): string {
    const { mm: core } = this.#host;
    const { mm } = this.#guest();
    if (file === 'smaps') return smaps(core, mm);
    if (file === 'smaps_rollup') return smapsRollup(core, mm);
    if (file === 'vmstat') return vmstatText(core);
    if (file === 'meminfo') return meminfo(core);
    const text = memcgText(core, core.layout.mm.memcg.get(mm), file);
    if (text === undefined) throw new FaultlineError('E_USAGE', `there is no file ${file}`);
    return text;
  }

  /**
   * Gives advice on a range of guest memory, as madvise does: `pageout` and `dontneed` act on its pages, the
   * others mark it. Throws Errno, by Linux's codes.
   */
  async advise(range: Range, advice: MemoryAdvice): Promise<void> {
    const step = FLAGS.has(advice) ? range.length : STEP_BYTES;
    const { madvise } = this.#host.mm;
    const hva = this.#hva(range);
    for (let done = 0; ; done += step, await nextTurn()) {
      madvise.advise(this.#guest().mm, hva + done, Math.min(step, range.length - done), advice);
      if (done + step >= range.length) return;
    }
  }

  /**
   * The most of the guest's memory that may be in frames at once, from now on: memory.max. Lowered, it takes
   * the difference to swap before it resolves. Throws E_MEMORY_LIMIT for less than works, or where the rest has
   * nowhere to go.
   */
  async setLimit(size: Size): Promise<void> {
    const wanted = bytes(size);
    if (wanted < LIMIT_MIN) {
      throw new FaultlineError('E_MEMORY_LIMIT', `a limit of ${formatSize(wanted)} is too little to work`, {
        hint: `setLimit('${formatSize(LIMIT_MIN)}') or more`,
      });
    }
    const { mm } = this.#host;
    const memcg = () => mm.layout.mm.memcg.get(this.#guest().mm);
    await this.#reclaimTo(() => mm.memcgFiles.current(memcg()) - wanted);
    try {
      mm.memcgFiles.setMax(memcg(), wanted);
    } catch (cause) {
      const inUse = formatSize(mm.memcgFiles.current(memcg()));
      throw new FaultlineError('E_MEMORY_LIMIT', `${inUse} are in use and can't be taken`, {
        cause,
        hint: "swap: 'zram' or 'file:PATH', or a larger limit",
      });
    }
  }

  /** Takes up to so many bytes of the guest's memory from frames, to swap: memory.reclaim. Returns how many. */
  async reclaim(size: Size): Promise<number> {
    const wanted = Math.ceil(bytes(size) / PAGE_SIZE) * PAGE_SIZE;
    let freed = 0;
    await this.#reclaimTo(
      () => wanted - freed,
      taken => {
        freed += taken;
      },
    );
    return freed;
  }

  /** Reclaims in steps, as long as there is something `left` to take and it can be had. */
  async #reclaimTo(left: () => number, took?: (taken: number) => void): Promise<void> {
    const { mm } = this.#host;
    for (let over = left(); over > 0; over = left()) {
      const memcg = mm.layout.mm.memcg.get(this.#guest().mm);
      const before = mm.memcgFiles.current(memcg);
      try {
        mm.memcgFiles.reclaim(memcg, Math.min(over, STEP_BYTES));
      } catch (error) {
        // EAGAIN: what there was is taken.
        if (!(error instanceof Errno && error.code === 'EAGAIN')) throw error;
        took?.(Math.max(0, before - mm.memcgFiles.current(memcg)));
        return;
      }
      took?.(Math.max(PAGE_SIZE, before - mm.memcgFiles.current(memcg)));
      await nextTurn();
    }
  }

  /**
   * How much of its memory the guest shall do without, in bytes, or as text such as '64M'. It follows in its
   * own time, as far as it can: `stat().balloonBytes` tells. Throws E_USAGE for a guest without a balloon.
   */
  setBalloon(size: Size): void {
    const wanted = bytes(size);
    if (wanted > this.ram.length || !this.#driver.setBalloon(wanted)) {
      throw new FaultlineError('E_USAGE', `a balloon of ${formatSize(wanted)} cannot be`, {
        hint: "balloon: 'free-page-reporting', and less than the guest's memory",
      });
    }
  }

  /** Everything countable in one flat record: what `--stats` writes. */
  counters(): Record<string, unknown> {
    return { ...this.vmstat(), ...this.#host.counters(), memory: this.stat() };
  }

  #guest(): Guest {
    const guest = this.#driver.guest();
    if (guest === undefined) throw new FaultlineError('E_AGENT', 'the guest has no memory yet, or no more');
    return guest;
  }

  /** The Host's address of a range of RAM. Throws EINVAL for one that is not wholly there. */
  #hva({ start, length }: Range): number {
    const { hva, bytes: size } = this.#guest();
    const offset = start - RAM_BASE;
    if (!(offset >= 0 && length >= 0 && offset + length <= size))
      throw new Errno('EINVAL', 'memory', 'the range is not in RAM');
    return hva + offset;
  }
}
