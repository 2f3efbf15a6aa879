import type { Pfn } from '../../base/units.ts';
import { array, i32, type Ptr, type Struct, struct } from '../../sync/struct.ts';
import type { Code } from '../code-cache.ts';
import type { CodePtr } from '../vcpu.ts';

/**
 * `translating` of a code cache: who may write the VM's regions, their entries, and its job.
 *
 *     Free ──cas──> Held     a runner that drives the VM: translates, judges, drops, publishes
 *       Held ─────> Free
 *       Held ─────> Asked    the translator's thread, which finds in the job what it shall do
 *       Asked ────> Made     nobody, until a runner publishes the entries from `firstEntry` on:  Made ──cas──> Held
 *       Asked ────> Full     nobody, until a runner has made room:                               Full ──cas──> Held
 */
export const Translating = { Free: 0, Held: 1, Asked: 2, Made: 3, Full: 4 } as const;

/** A place that execution comes to often. A page that is dropped and decoded again has another stamp. */
export type Head = {
  readonly slot: number;
  readonly pfn: Pfn;
  readonly offset: number;
  readonly stamp: number;
};

/** Places in a job. */
export const MAX_HEADS = 16;
const HEAD_WORDS = 4;

const JOB_FIELDS = {
  count: i32,
  /** The first id that the job's entries have; the last is before `nextEntry`. */
  firstEntry: i32,
  heads: array(MAX_HEADS * HEAD_WORDS),
} as const;
export const JOB_WORDS = 2 + MAX_HEADS * HEAD_WORDS;

/** What a VM's runners ask of the translator's thread, one piece of work at a time. */
export class Jobs {
  readonly #memory: Int32Array;
  readonly #job: Struct<'job', typeof JOB_FIELDS>;
  readonly #code: Code;

  constructor(memory: Int32Array, code: Code) {
    this.#memory = memory;
    this.#code = code;
    this.#job = struct(memory, 'job', JOB_FIELDS);
  }

  #at(code: CodePtr) {
    return this.#code.job.get(code) as Ptr<'job'>;
  }

  /** Requires: `translating` is held. */
  write(code: CodePtr, heads: readonly Head[]): void {
    const at = this.#at(code);
    this.#job.count.set(at, heads.length);
    heads.forEach(({ slot, pfn, offset, stamp }, i) => {
      this.#memory.set([slot, pfn, offset, stamp], at + this.#job.heads.at + i * HEAD_WORDS);
    });
  }

  read(code: CodePtr): Head[] {
    const at = this.#at(code);
    return Array.from({ length: this.#job.count.get(at) }, (_, i) => {
      const head = at + this.#job.heads.at + i * HEAD_WORDS;
      const [slot, pfn, offset, stamp] = this.#memory.subarray(
        head,
        head + HEAD_WORDS,
      ) as unknown as number[];
      return { slot: slot!, pfn: pfn! as Pfn, offset: offset!, stamp: stamp! };
    });
  }

  firstEntry(code: CodePtr): number {
    return this.#job.firstEntry.get(this.#at(code));
  }

  setFirstEntry(code: CodePtr, id: number): void {
    this.#job.firstEntry.set(this.#at(code), id);
  }
}
