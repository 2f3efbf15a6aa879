import { assert } from '../../base/assert.ts';
import { Root } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmLayout } from '../layout.ts';
import type { ReclaimLayout } from './reclaim-layout.ts';
import type { WordsPort } from './reclaim-ports.ts';

type Memcg = Ptr<'memcg'>;
type Group = Ptr<'psi'>;

/** The averages are brought up to date this often; the weights below are for it. Linux: PSI_FREQ. */
export const PSI_PERIOD_NS = 2e9;
const FIXED_1 = 2048;
/** 2048 / exp(2 s / window), for windows of 10, 60 and 300 s. */
const WEIGHTS = [1677, 1981, 2034] as const;
/** After so many periods of one state every average has settled. */
const SETTLED = 4000;

export type PsiDeps = {
  readonly sync: Sync;
  readonly layout: Pick<MmLayout, 'memcg'>;
  readonly reclaim: Pick<ReclaimLayout, 'psi'>;
  readonly heap: WordsPort;
  /** Nanoseconds of a clock that all threads share. It may stand still, and is never taken to go back. */
  readonly clock: () => number;
  /** Processors that tasks run on; by default as many as there are tasks. */
  readonly processors?: number | undefined;
};

export type PsiLine = { avg10: number; avg60: number; avg300: number; totalUs: number };
export type Pressure = { some: PsiLine; full: PsiLine };

/**
 * Time that tasks lose because memory is short, per group and for the Host. Linux: kernel/sched/psi.c.
 *
 * Of `n` tasks that are not idle, `s` are stalled, and at most `t = min(n, processors)` can work at once. A
 * moment then counts as `min(s/t, 1)` of *some*, and as `(t - min(n - s, t)) / t` of *full*: the share of
 * processors that have nothing productive to do. Linux states these and samples them per processor. A task
 * that stalls and was never reported as running counts as not idle while it does.
 *
 * One per thread: stalls nest, and only the outermost counts.
 */
export class Psi {
  readonly #deps: PsiDeps;
  readonly #words: Int32Array;
  readonly #host: Group;
  #depth = 0;

  constructor(deps: PsiDeps) {
    this.#deps = deps;
    this.#words = deps.sync.words;
    this.#host = deps.sync.arena.root(Root.psi) as Group;
    assert(this.#host !== 0, 'Psi: the arena has no group of the Host');
  }

  /** Once per arena, before the first instance. */
  static init(deps: Omit<PsiDeps, 'clock' | 'layout'>): void {
    deps.sync.arena.setRoot(Root.psi, deps.heap.alloc(deps.reclaim.psi.words));
  }

  /** The account of a new group. */
  createGroup(): Group {
    return this.#deps.heap.alloc(this.#deps.reclaim.psi.words) as Group;
  }

  /** A group's record is used again: what its last owner lost is forgotten. */
  reset(memcg: Memcg): void {
    const group = this.#groupOf(memcg);
    this.#words.fill(0, group, group + this.#deps.reclaim.psi.words);
  }

  /** This thread waits for memory on behalf of a group, 0 for the Host alone. Requires: no leaf lock. */
  enter(memcg: Memcg): void {
    if (this.#depth++ === 0) this.#change(memcg, 0, 1);
  }

  leave(memcg: Memcg): void {
    assert(this.#depth > 0, 'psi: a stall ends that had not begun');
    if (--this.#depth === 0) this.#change(memcg, 0, -1);
  }

  /** `by` more tasks of a group have work to do: a vCPU wakes up or goes idle. Requires: no leaf lock. */
  running(memcg: Memcg, by: number): void {
    this.#change(memcg, by, 0);
  }

  #groupOf(memcg: Memcg): Group {
    return memcg === 0 ? this.#host : this.#deps.layout.memcg.psi.load(memcg);
  }

  #change(memcg: Memcg, running: number, stalled: number): void {
    const now = Math.floor(this.#deps.clock());
    if (memcg !== 0) this.#changeGroup(this.#groupOf(memcg), now, running, stalled);
    this.#changeGroup(this.#host, now, running, stalled);
  }

  #changeGroup(group: Group, now: number, running: number, stalled: number): void {
    const { psi } = this.#deps.reclaim;
    this.#deps.sync.lock('psi', group + psi.lock.at);
    this.#advance(group, now);
    psi.running.set(group, psi.running.get(group) + running);
    psi.stalled.set(group, psi.stalled.get(group) + stalled);
    this.#deps.sync.unlock('psi', group + psi.lock.at);
    assert(psi.stalled.get(group) >= 0 || stalled > 0, 'psi: more stalls ended than began');
  }

  /** Tasks of a group that are not idle, as far as they were reported, and those that are stalled. */
  tasks(memcg: Memcg): { running: number; stalled: number } {
    const { psi } = this.#deps.reclaim;
    const group = this.#groupOf(memcg);
    this.#deps.sync.lock('psi', group + psi.lock.at);
    const tasks = { running: psi.running.get(group), stalled: psi.stalled.get(group) };
    this.#deps.sync.unlock('psi', group + psi.lock.at);
    return tasks;
  }

  /** Averages in percent, totals in microseconds, as of now. Of the Host when `memcg` is 0. */
  read(memcg: Memcg): Pressure {
    const { psi } = this.#deps.reclaim;
    const group = this.#groupOf(memcg);
    this.#deps.sync.lock('psi', group + psi.lock.at);
    this.#advance(group, Math.floor(this.#deps.clock()));
    const pressure = {
      some: this.#line(group, psi.avgSome.at, psi.some.at),
      full: this.#line(group, psi.avgFull.at, psi.full.at),
    };
    this.#deps.sync.unlock('psi', group + psi.lock.at);
    return pressure;
  }

  #line(group: Group, averages: number, total: number): PsiLine {
    const average = (i: number): number => (this.#words[group + averages + i] as number) / FIXED_1;
    return {
      ...{ avg10: average(0), avg60: average(1), avg300: average(2) },
      totalUs: Math.floor(this.#load64(group + total) / 1000),
    };
  }

  /**
   * Accounts for the time until `now`, through which nothing changed, period by period, so that the
   * averages are what a clock would have made them. Requires: 'psi'.
   */
  #advance(group: Group, now: number): void {
    const { next, last } = this.#deps.reclaim.psi;
    let due = this.#load64(group + next.at);
    if (due === 0) {
      this.#store64(group + last.at, now);
      due = now + PSI_PERIOD_NS;
    }
    const missed = Math.floor((now - due) / PSI_PERIOD_NS) - SETTLED;
    if (missed > 0) {
      due += missed * PSI_PERIOD_NS;
      this.#account(group, due);
      this.#sample(group);
    }
    for (; due <= now; due += PSI_PERIOD_NS) {
      this.#account(group, due);
      this.#average(group);
    }
    this.#account(group, now);
    this.#store64(group + next.at, due);
  }

  /** Adds the time since the last call to the totals. Requires: 'psi'. */
  #account(group: Group, now: number): void {
    const { psi } = this.#deps.reclaim;
    const spent = now - this.#load64(group + psi.last.at);
    if (spent <= 0) return;
    this.#store64(group + psi.last.at, now);
    const stalled = psi.stalled.get(group);
    if (stalled === 0) return;
    const tasks = Math.max(psi.running.get(group), stalled);
    const workers = Math.min(tasks, this.#deps.processors ?? tasks);
    const idle = workers - Math.min(tasks - stalled, workers);
    this.#add64(group + psi.some.at, Math.round(spent * Math.min(stalled / workers, 1)));
    this.#add64(group + psi.full.at, Math.round((spent * idle) / workers));
  }

  /** One period is over. Requires: 'psi'. Linux: calc_avgs. */
  #average(group: Group): void {
    const { psi } = this.#deps.reclaim;
    this.#averageOf(group, psi.some.at, psi.someSampled.at, psi.avgSome.at);
    this.#averageOf(group, psi.full.at, psi.fullSampled.at, psi.avgFull.at);
  }

  #averageOf(group: Group, total: number, sampled: number, averages: number): void {
    const now = this.#load64(group + total);
    const lost = Math.min(now - this.#load64(group + sampled), PSI_PERIOD_NS);
    this.#store64(group + sampled, now);
    const active = Math.floor((lost * 100) / PSI_PERIOD_NS) * FIXED_1;
    for (let i = 0; i < WEIGHTS.length; i++) {
      const at = group + averages + i;
      this.#words[at] = decay(this.#words[at] as number, WEIGHTS[i] as number, active);
    }
  }

  /** Forgets what happened so far, but for the totals. Requires: 'psi'. */
  #sample(group: Group): void {
    const { psi } = this.#deps.reclaim;
    this.#store64(group + psi.someSampled.at, this.#load64(group + psi.some.at));
    this.#store64(group + psi.fullSampled.at, this.#load64(group + psi.full.at));
  }

  #load64(at: number): number {
    return (this.#words[at + 1] as number) * 2 ** 32 + ((this.#words[at] as number) >>> 0);
  }

  #store64(at: number, value: number): void {
    this.#words[at] = value | 0;
    this.#words[at + 1] = Math.floor(value / 2 ** 32);
  }

  #add64(at: number, by: number): void {
    this.#store64(at, this.#load64(at) + by);
  }
}

/** Rounded up while it rises, so that it gets there. Linux: calc_load. */
function decay(load: number, weight: number, active: number): number {
  const sum = load * weight + active * (FIXED_1 - weight) + (active >= load ? FIXED_1 - 1 : 0);
  return Math.floor(sum / FIXED_1);
}

const twoDigits = (average: number): string => {
  const hundredths = Math.floor(average * 100);
  return `${Math.floor(hundredths / 100)}.${String(hundredths % 100).padStart(2, '0')}`;
};

const lineText = (name: string, line: PsiLine): string =>
  `${name} avg10=${twoDigits(line.avg10)} avg60=${twoDigits(line.avg60)} ` +
  `avg300=${twoDigits(line.avg300)} total=${line.totalUs}\n`;

/** As /proc/pressure/memory reads. */
export const pressureText = ({ some, full }: Pressure): string =>
  lineText('some', some) + lineText('full', full);
