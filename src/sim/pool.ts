import type { Worker } from 'node:worker_threads';
import { spawnWorker } from '../host/node/spawn.ts';
import { Arena } from '../sync/arena.ts';
import type { Load } from './actor-worker.ts';
import { CONTROLLER, Command, Control, Ctl, MAX_ACTORS } from './control.ts';
import { nextMessage } from './next-message.ts';

/** A schedule's thread made no step for so long that it must be in a loop without a yield point. */
const STUCK_MS = 60_000;

/** Threads that play actors, and arenas, both reused over all schedules of all cases. */
export class Pool {
  readonly control = Control.create();
  readonly #workers: Worker[] = [];
  readonly #arenas = new Map<string, { arena: Arena; blank: Int32Array }>();

  /** Makes sure that there are `count` threads. */
  async grow(count: number): Promise<void> {
    if (count > MAX_ACTORS) throw new RangeError(`at most ${MAX_ACTORS} actors`);
    while (this.#workers.length < count) {
      const worker = spawnWorker(new URL('./actor-worker.ts', import.meta.url), {
        buffer: this.control.buffer,
        self: this.#workers.length,
      });
      worker.setMaxListeners(0);
      await nextMessage(worker);
      this.#workers.push(worker);
    }
  }

  /** An arena as new. Shared memories are kept: each reserves gigabytes of address space until collected. */
  arena(options: { frames: number; heapBytes: number }): Arena {
    const key = `${options.frames} ${options.heapBytes}`;
    let entry = this.#arenas.get(key);
    if (entry === undefined) {
      const arena = Arena.create({ ...options, shared: true });
      entry = { arena, blank: arena.words.slice() };
      this.#arenas.set(key, entry);
    }
    entry.arena.words.set(entry.blank);
    return entry.arena;
  }

  /** Tells thread `index` what to play. */
  async load(index: number, load: Load): Promise<void> {
    const worker = this.#workers[index] as Worker;
    const loaded = nextMessage(worker);
    worker.postMessage(load);
    this.control.words[Ctl.command] = Command.Load;
    this.control.hand(index);
    await loaded;
  }

  /** Lets the actors run, `first` first, until the schedule is over. */
  run(first: number): void {
    this.control.words[Ctl.command] = Command.Run;
    this.control.hand(first);
    if (!this.control.await(CONTROLLER, STUCK_MS)) {
      const step = this.control.words[Ctl.step] as number;
      const last = step > 0 ? this.control.decision(step - 1) : undefined;
      throw new Error(`actor ${last?.chosen} is in a loop without a yield point, after ${last?.label}`);
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map(worker => worker.terminate()));
    this.#workers.length = 0;
  }
}
