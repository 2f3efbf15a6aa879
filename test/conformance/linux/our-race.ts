import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { spawnWorker } from '../../../src/host/node/spawn.ts';
import type { MmBreaks } from '../../../src/mm/breaks.ts';
import type { MmCore } from '../../../src/mm/core.ts';
import { initMm } from '../../../src/mm/index.ts';
import { Arena } from '../../../src/sync/arena.ts';
import type { Ptr } from '../../../src/sync/struct.ts';
import { Sync } from '../../../src/sync/sync.ts';
import { productionWaiter, type Waiter } from '../../../src/sync/waiter.ts';
import type { Beside } from './conditions.ts';
import {
  CTL_WORDS,
  Ctl,
  MAX_RACED,
  type RaceWorkerData,
  raceConfig,
  tell,
  Want,
  whyFailed,
} from './race-control.ts';

const FRAMES = 4096;
const HEAP_BYTES = 1 << 20;
/** A sleep that the second thread has not ended by then is for ever. */
const STUCK_MS = 20_000;
/** How often a sleeper looks whether the second thread still lives. */
const LOOK_MS = 500;
/** How long a step may wait for the second thread to come round. */
const PACE_MS = 2;

/** What our mm did beside racing scripts. */
export type OurBeside = Beside & { rounds: number };

/** An mm that two threads share: the one that runs scripts, and race-worker.ts. */
export class OurRace {
  readonly core: MmCore;
  readonly #worker: Worker;
  readonly #control: Int32Array;
  #steps = 0;
  #sharing = 0;

  private constructor(breaks: Partial<MmBreaks>) {
    const arena = Arena.create({ frames: FRAMES, heapBytes: HEAP_BYTES, shared: true });
    const waiter = this.#watchful(productionWaiter(arena));
    this.core = initMm(new Sync(arena, { waiter, lockdep: true }), raceConfig(arena, breaks));
    this.#control = new Int32Array(new SharedArrayBuffer(CTL_WORDS * 4));
    this.#control[Ctl.want] = Want.Rest;
    const data: RaceWorkerData = { memory: arena.memory, control: this.#control, breaks };
    this.#worker = spawnWorker(new URL('./race-worker.ts', import.meta.url), data);
    this.#worker.unref();
  }

  static async start(breaks: Partial<MmBreaks>): Promise<OurRace> {
    const race = new OurRace(breaks);
    await once(race.#worker, 'online');
    race.#until(Ctl.resting, 1);
    return race;
  }

  /** The second thread takes an address space up, too. */
  add(mm: Ptr<'mm'>): void {
    this.#whileResting(() => {
      for (let i = 0; i < MAX_RACED; i++) {
        if (this.#control[Ctl.raced + i] === mm) return;
        if (this.#control[Ctl.raced + i] !== 0) continue;
        this.#control[Ctl.raced + i] = mm;
        return;
      }
    });
  }

  /** It lets go of one. */
  remove(mm: Ptr<'mm'>): void {
    this.#whileResting(() => {
      const at = this.#control.indexOf(mm, Ctl.raced);
      if (at >= 0) this.#control[at] = 0;
    });
  }

  /** Between two steps: half of them come once the second thread has come round, so that they meet it anywhere. */
  pace(): void {
    if (Atomics.load(this.#control, Ctl.want) === Want.Rest || this.#steps++ % 2 === 0) return;
    Atomics.wait(this.#control, Ctl.rounds, Atomics.load(this.#control, Ctl.rounds), PACE_MS);
    this.#sharing = Math.max(this.#sharing, this.core.ksm.stats().pages_sharing);
    this.#checkAlive();
  }

  beside(): OurBeside {
    const { vmstat } = this.core;
    const rounds = Atomics.load(this.#control, Ctl.rounds);
    return {
      swappedOut: vmstat.read('pswpout'),
      sharing: this.#sharing,
      cow: vmstat.read('cow_ksm'),
      rounds,
    };
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  /** Requires nothing; the second thread rests on if it has nothing to do. */
  #whileResting(work: () => void): void {
    tell(this.#control, Ctl.want, Want.Rest);
    this.#until(Ctl.resting, 1);
    work();
    if (this.#control.subarray(Ctl.raced).every(mm => mm === 0)) return;
    tell(this.#control, Ctl.want, Want.Race);
    this.#until(Ctl.resting, 0);
  }

  #until(at: number, value: number): void {
    for (let ms = 0; Atomics.load(this.#control, at) !== value; ms += LOOK_MS) {
      Atomics.wait(this.#control, at, 1 - value, LOOK_MS);
      this.#checkAlive();
      if (ms > STUCK_MS) throw new Error('the second thread does not answer');
    }
  }

  #checkAlive(): void {
    const why = whyFailed(this.#control);
    if (why !== undefined) throw new Error(`second thread: ${why}`);
  }

  /** Sleeps as in production, but not for ever when the second thread has died. */
  #watchful(plain: Waiter): Waiter {
    return {
      ...plain,
      wait: (at, expected, timeoutMs = Number.POSITIVE_INFINITY) => {
        if (timeoutMs < LOOK_MS) return plain.wait(at, expected, timeoutMs);
        for (let ms = 0; ; ms += LOOK_MS) {
          const how = plain.wait(at, expected, LOOK_MS);
          if (how !== 'timed-out' || ms + LOOK_MS >= timeoutMs) return how;
          this.#checkAlive();
          if (ms > STUCK_MS) throw new Error(`sleeps for ever on word ${at}`);
        }
      },
    };
  }
}
