import { atomicsOf } from '../../sync/atomics.ts';
import { array, i32, type Ptr, struct } from '../../sync/struct.ts';
import type { Waiter } from '../../sync/waiter.ts';
import type { CodePtr } from '../vcpu.ts';

// Where the runners of a Host leave word for the translator's thread. A place holds
//
//   0        nothing
//   code     the VM of this code cache has a job
//   -code    its job is being done: the code cache does not go before that is over
//
// What the job is, and whose turn it is with it, the code cache says (job.ts).

const PLACES = 32;
const POST_FIELDS = {
  /** 1 while a thread serves. */
  served: i32,
  /** Counts jobs; the translator's thread sleeps on it. */
  bell: i32,
  /** Counts code caches that were ever made. */
  codes: i32,
  places: array(PLACES),
} as const;
export type PostPtr = Ptr<'post'>;
export const POST_WORDS = 3 + PLACES;

export class Post {
  readonly at: PostPtr;
  readonly #post;
  readonly #atomics;
  readonly #waiter: Waiter;

  constructor(words: Int32Array, waiter: Waiter, at: PostPtr) {
    this.at = at;
    this.#post = struct(words, 'post', POST_FIELDS);
    this.#atomics = atomicsOf(words);
    this.#waiter = waiter;
  }

  get isServed(): boolean {
    return this.#post.served.load(this.at) !== 0;
  }

  /** A number that no other code cache of the Host has had. */
  numberCode(): number {
    return this.#post.codes.add(this.at, 1) + 1;
  }

  #place(i: number): number {
    return this.at + this.#post.places.at + i;
  }

  /** Leaves word of a VM's job; false if there is no room. */
  leave(code: CodePtr): boolean {
    for (let i = 0; i < PLACES; i++) {
      if (this.#atomics.cas(this.#place(i), 0, code) !== 0) continue;
      this.#post.bell.add(this.at, 1);
      this.#waiter.notify(this.at + this.#post.bell.at, 1);
      return true;
    }
    return false;
  }

  /** Takes back what was left for a VM, or waits until its job is done. No runner of the VM leaves any meanwhile. */
  withdraw(code: CodePtr): void {
    for (let i = 0; i < PLACES; i++) {
      const place = this.#place(i);
      this.#atomics.cas(place, code, 0);
      while (this.#atomics.load(place) === -code) this.#waiter.wait(place, -code);
    }
  }

  /** The translator's thread: it serves from here on, or no longer. */
  serve(served: boolean): void {
    this.#post.served.store(this.at, served ? 1 : 0);
  }

  /** The translator's thread is gone, and with it what it was at: nobody is to wait for that. */
  abandon(): void {
    this.serve(false);
    for (let i = 0; i < PLACES; i++) {
      const place = this.#place(i);
      const code = this.#atomics.load(place);
      if (code < 0) this.#atomics.cas(place, code, 0);
      this.#waiter.notify(place, 1);
    }
  }

  /** Wakes the translator's thread, so that it looks whether it is to end. */
  ring(): void {
    this.#post.bell.add(this.at, 1);
    this.#waiter.notify(this.at + this.#post.bell.at, 1);
  }

  /** By the translator's thread, before it looks whether it is to end and for work: what `sleep` wants. */
  jobs(): number {
    return this.#post.bell.load(this.at);
  }

  /** By the translator's thread: does what was left so far by `work`. */
  work(work: (code: CodePtr) => void): void {
    for (let i = 0; i < PLACES; i++) {
      const code = this.#atomics.load(this.#place(i));
      if (code > 0 && this.#atomics.cas(this.#place(i), code, -code) === code) this.#one(i, code, work);
    }
  }

  #one(i: number, code: number, work: (code: CodePtr) => void): void {
    try {
      work(code as CodePtr);
    } finally {
      this.#atomics.store(this.#place(i), 0);
      this.#waiter.notify(this.#place(i), 1);
    }
  }

  /** Until there is more than there was at the `jobs` that returned `seen`. */
  sleep(seen: number): void {
    this.#waiter.wait(this.at + this.#post.bell.at, seen);
  }
}
