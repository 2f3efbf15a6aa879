import { spawnWorker } from '../host/node/spawn.ts';
import type { Host, HostShare } from '../machine/host.ts';

/** What such a worker is given: it leaves once the word at `control` is not zero. */
export type HostWorkerData = { share: HostShare; control: number };

/** A worker that serves all guests of a Host until it is told to leave. */
export class HostWorker {
  /** Resolves with why it died, which it does not. */
  readonly failed: Promise<Error>;
  readonly #host: Host;
  readonly #control: number;
  readonly #wake: () => void;
  readonly #exited: Promise<void>;

  /** `module`: its source. `wake` has it look at the word. */
  constructor(host: Host, module: URL, wake: () => void) {
    this.#host = host;
    this.#wake = wake;
    this.#control = host.mm.heap.alloc(1);
    const data: HostWorkerData = { share: host.share(), control: this.#control };
    const worker = spawnWorker(module, data);
    this.failed = new Promise(resolve => worker.on('error', resolve));
    this.#exited = new Promise(resolve => worker.on('exit', () => resolve()));
  }

  /** Resolves when the worker has left the Host's memory. */
  stop(): Promise<void> {
    Atomics.store(this.#host.words, this.#control, 1);
    this.#wake();
    return this.#exited;
  }
}
