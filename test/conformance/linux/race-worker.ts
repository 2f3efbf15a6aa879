import { workerData } from 'node:worker_threads';
import { PAGE_SIZE } from '../../../src/base/units.ts';
import type { MmCore } from '../../../src/mm/core.ts';
import { GUP_PFN_MASK } from '../../../src/mm/fault-codes.ts';
import { attachMm } from '../../../src/mm/index.ts';
import { Syscalls } from '../../../src/mm/syscalls/syscalls.ts';
import { Arena } from '../../../src/sync/arena.ts';
import type { Ptr } from '../../../src/sync/struct.ts';
import { Sync } from '../../../src/sync/sync.ts';
import { Ctl, fail, MAX_RACED, type RaceWorkerData, raceConfig, tell, Want } from './race-control.ts';
import { WINDOW, WINDOW_BYTES } from './script.ts';

// The second thread of racing scripts on our side: what driver.c's thread does of each process that races, and what
// ksmd does, until it is told to rest.

const PAGEOUT = 21;
const FORK_EVERY = 7;
/** Pages that scripts use. */
const READ_PAGES = 24;
const SCANNED = 256;
/** How long every other child lives, in milliseconds. */
const LINGER_MS = 0.2;

class Racer {
  readonly #core: MmCore;
  readonly #calls: Syscalls;
  readonly #control: Int32Array;
  #round = 0;

  constructor(core: MmCore, control: Int32Array) {
    this.#core = core;
    this.#calls = new Syscalls(core, 'modern');
    this.#control = control;
  }

  /** Until the thread is ended. */
  run(): void {
    for (;;) {
      if (Atomics.load(this.#control, Ctl.want) === Want.Rest) this.#rest();
      for (let i = 0; i < MAX_RACED; i++) {
        const mm = Atomics.load(this.#control, Ctl.raced + i);
        if (mm !== 0) this.#beside(mm as Ptr<'mm'>);
      }
      tell(this.#control, Ctl.rounds, ++this.#round);
    }
  }

  #rest(): void {
    this.#core.lru.drain();
    this.#core.sync.lockdep?.assertNone();
    tell(this.#control, Ctl.resting, 1);
    while (Atomics.load(this.#control, Ctl.want) === Want.Rest)
      Atomics.wait(this.#control, Ctl.want, Want.Rest);
    tell(this.#control, Ctl.resting, 0);
  }

  #beside(mm: Ptr<'mm'>): void {
    this.#calls.madvise(mm, WINDOW, WINDOW_BYTES, PAGEOUT);
    this.#core.ksm.scan(SCANNED);
    for (let page = this.#round % 3; page < READ_PAGES; page += 3) this.#read(mm, WINDOW / PAGE_SIZE + page);
    if (this.#round % FORK_EVERY !== 0) return;
    const child = this.#core.fork(mm);
    if (this.#round % 2 === 1) Atomics.wait(this.#control, Ctl.want, Want.Race, LINGER_MS);
    this.#core.exit(child);
  }

  #read(mm: Ptr<'mm'>, vpn: number): void {
    const found = this.#core.gup.fault(mm, vpn, false);
    if (found >= 0) this.#core.pages.put(found & GUP_PFN_MASK);
  }
}

const { memory, control, breaks } = workerData as RaceWorkerData;
try {
  const arena = Arena.attach(memory);
  const core = attachMm(new Sync(arena, { lockdep: true }), raceConfig(arena, breaks));
  new Racer(core, control).run();
} catch (error) {
  fail(control, error instanceof Error ? error.message : String(error));
}
