import type { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { MIB, PAGE_SIZE } from '../base/units.ts';
import { VCPU_WORDS } from '../cpu/vcpu.ts';
import { spawnWorker } from '../host/node/spawn.ts';
import { Protocol } from '../kvm/index.ts';
import { Arena } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import { type StressBreaks, type StressHost, stressHost } from './stress-host.ts';
import {
  everythingShape,
  FIRST_GFN,
  MAX_WRITERS,
  type StressLayout,
  type StressShape,
  stressLayout,
} from './stress-layout.ts';
import { TRAIL_WORDS } from './stress-trail.ts';
import { armRegions, type StressUffd } from './stress-uffd.ts';
import type { StressWorkerData } from './stress-worker.ts';

export type StressOptions = {
  seconds: number;
  seed: number;
  vcpus: number;
  protocol: 'modern' | 'seqlock';
  breaks: StressBreaks;
  /** End at the first loss. */
  untilLost: boolean;
  progress?: (line: string) => void;
  /** Pages of counters; four times as many as may be resident. Not with `everything`. */
  pages?: number;
  /** User faults and huge pages, too: issue 3's bar. */
  everything?: boolean;
};

export type StressResult = {
  seconds: number;
  checked: number;
  misses: number;
  scratchChecked: number;
  vmmChecked: number;
  swapOuts: number;
  swapIns: number;
  ageingClears: number;
  ageingPasses: number;
  unmaps: number;
  cowBreaks: number;
  forks: number;
  /** Writes to pages that KSM had merged. */
  mergesBroken: number;
  faultRetries: number;
  /** User faults that the manager has answered, and those of them that were writes to protected pages. */
  userFaults: number;
  wpFaults: number;
  /** Times that a vCPU waited for a user fault. */
  blocked: number;
  /** Holes that the thread which met them has filled. */
  sigbusFilled: number;
  moves: number;
  splits: number;
  collapses: number;
  /** Events of fork, remap, remove and unmap that the manager has read. */
  events: number;
  lost: number;
  /** All of the four that follow. */
  stale: number;
  staleScratch: number;
  staleTwin: number;
  staleChild: number;
  staleProtected: number;
  failed: number;
  problems: string[];
  /** What was wrong with the first wrong values, and what every thread was doing. */
  notes: string[];
};

/** Counted by several threads. */
type Summed =
  | 'checked'
  | 'misses'
  | 'scratchChecked'
  | 'asked'
  | 'protections'
  | 'blocked'
  | 'sigbus'
  | 'moves'
  | 'collapses'
  | 'events'
  | 'lost'
  | Stale
  | 'failed';

/** Checks that find a page which holds what it should not, or not any more. */
export const STALE = ['staleScratch', 'staleTwin', 'staleChild', 'staleProtected'] as const;
type Stale = (typeof STALE)[number];

const POLL_MS = 100;
const PROGRESS_MS = 5000;
/** How long the threads may take for their last look. */
const FINISH_MS = 30_000;

/** Everything of a run, as the supervising thread sees it. It never enters the core once the run goes. */
class StressRun {
  readonly #options: StressOptions;
  readonly #shape: StressShape;
  readonly #host: StressHost;
  readonly #layout: StressLayout;
  readonly #control: Ptr<'stressControl'>;
  readonly #reports: Ptr<'stressReport'>[] = [];
  readonly #mm: Ptr<'mm'>;
  readonly #vm: Ptr<'vm'>;
  readonly #hva: number;
  readonly #uffd: StressUffd | undefined;
  readonly #workers: Worker[] = [];
  readonly #problems: string[] = [];
  readonly #notes: string[] = [];
  #lastSeen: Partial<StressResult> = {};
  #started = 0;

  constructor(options: StressOptions) {
    this.#options = options;
    const { vcpus, seed } = options;
    assert(
      vcpus + (options.everything ? 2 : 1) <= MAX_WRITERS,
      'stress: more writers than a page has room for',
    );
    const plain = { pages: options.pages ?? 2048, scratch: 64, vcpus, seed };
    this.#shape = options.everything ? everythingShape(vcpus, seed) : plain;
    const { pages, scratch, regions } = this.#shape;
    const arena = Arena.create({ frames: pages * 4 + 4096, heapBytes: 32 * MIB, shared: true });
    this.#host = stressHost(arena, options.breaks, 'init');
    this.#layout = stressLayout(arena.words);
    const { mm, kvm, vms } = this.#host;
    this.#control = mm.heap.alloc(this.#layout.control.words) as Ptr<'stressControl'>;
    this.#layout.control.epochs.store(this.#control, mm.heap.alloc(this.#shape.scratch));
    this.#layout.control.trails.store(this.#control, mm.heap.alloc((vcpus + 2) * TRAIL_WORDS));
    // A huge page is charged at once, and finds room for it where half the limit is reclaimed.
    this.#mm = mm.createMm({ limitPages: regions === undefined ? pages / 4 : pages });
    this.#hva = mm.mmap.map(this.#mm, (pages + scratch) * PAGE_SIZE);
    this.#uffd = regions && armRegions(mm, this.#mm, this.#hva, regions);
    const protocol = options.protocol === 'seqlock' ? Protocol.SeqlockPin : Protocol.Modern;
    this.#vm = vms.create({ mm: this.#mm, protocol });
    kvm.memslots.set(this.#vm, {
      slot: 0,
      guestAddress: FIRST_GFN * PAGE_SIZE,
      lengthBytes: (pages + scratch) * PAGE_SIZE,
      hostAddress: this.#hva,
    });
  }

  async run(): Promise<StressResult> {
    const { vcpus } = this.#options;
    for (let i = 0; i < vcpus; i++) this.#spawn('vcpu', i);
    this.#spawn('housekeeper', vcpus);
    if (this.#uffd !== undefined) this.#spawn('manager', vcpus + 1);
    const threads = this.#workers.length;
    this.#host.mm.lru.close();
    try {
      await this.#until(() => this.#field('ready') === threads, FINISH_MS, 'the threads did not start');
      this.#started = performance.now();
      this.#signal('go');
      await this.#watch();
      const result = this.#result();
      this.#signal('stop');
      if (this.#problems.length === 0) {
        await this.#until(() => this.#field('finished') === threads, FINISH_MS, 'the threads did not finish');
        await sleep(POLL_MS);
      }
      const { checked, sigbusFilled, lost, failed, ...last } = this.#result();
      const { stale, staleScratch, staleTwin, staleChild, staleProtected } = last;
      const wrong = { lost, stale, staleScratch, staleTwin, staleChild, staleProtected, failed };
      return { ...result, checked, sigbusFilled, ...wrong };
    } finally {
      await Promise.all(this.#workers.map(worker => worker.terminate()));
    }
  }

  #spawn(role: StressWorkerData['role'], index: number): void {
    const { mm, vms, sync } = this.#host;
    const report = mm.heap.alloc(this.#layout.report.words) as Ptr<'stressReport'>;
    this.#reports.push(report);
    let vcpu = 0;
    if (role === 'vcpu') {
      vcpu = mm.heap.alloc(VCPU_WORDS);
      vms.addVcpu(this.#vm, vcpu as Ptr<'vcpu'>);
    }
    const data: StressWorkerData = {
      ...{ role, index, report, vcpu, vm: this.#vm, mm: this.#mm, hva: this.#hva, control: this.#control },
      ...{ memory: sync.arena.memory, shape: this.#shape, breaks: this.#options.breaks },
      ...(this.#uffd && { uffd: this.#uffd }),
    };
    const worker = spawnWorker(new URL('./stress-worker.ts', import.meta.url), data);
    worker.on('error', error => this.#problems.push(`${role} ${index}: ${error.stack}`));
    worker.on('message', (told: { problems?: string[]; note?: string }) => {
      this.#problems.push(...(told.problems ?? []));
      if (told.note !== undefined) this.#notes.push(told.note);
    });
    this.#workers.push(worker);
  }

  #field(name: 'ready' | 'finished'): number {
    return this.#layout.control[name].load(this.#control);
  }

  #signal(name: 'go' | 'stop'): void {
    const field = this.#layout.control[name];
    field.store(this.#control, 1);
    this.#host.sync.waiter.notify(this.#control + field.at, Number.POSITIVE_INFINITY);
  }

  /** Waits for the time to pass, or for something to go wrong. */
  async #watch(): Promise<void> {
    const { seconds, untilLost, progress } = this.#options;
    let told = performance.now();
    while (performance.now() - this.#started < seconds * 1000 && this.#problems.length === 0) {
      await sleep(POLL_MS);
      const now = this.#result();
      if (untilLost && now.lost + now.stale > 0) return;
      if (now.failed > 0) return;
      if (performance.now() - told < PROGRESS_MS) continue;
      told = performance.now();
      progress?.(this.#progressLine(now));
    }
  }

  #progressLine(now: StressResult): string {
    const before = this.#lastSeen.checked ?? 0;
    this.#lastSeen = now;
    const rate = ((now.checked - before) / PROGRESS_MS / 1000).toFixed(2);
    const counts = `${now.swapOuts} out, ${now.unmaps} unmaps, ${now.cowBreaks} COW`;
    return `${now.seconds.toFixed(0)} s: ${now.checked} checked (${rate} M/s), ${counts}, ${now.lost} lost`;
  }

  async #until(done: () => boolean, ms: number, problem: string): Promise<void> {
    const end = performance.now() + ms;
    while (!done() && this.#problems.length === 0) {
      if (performance.now() > end) this.#problems.push(problem);
      await sleep(POLL_MS / 10);
    }
  }

  #sum(name: Summed): number {
    return this.#reports.reduce((sum, report) => sum + (this.#layout.report[name].load(report) >>> 0), 0);
  }

  #result(): StressResult {
    const { mm, kvm } = this.#host;
    const { report } = this.#layout;
    const keeper = this.#reports[this.#options.vcpus] as Ptr<'stressReport'>;
    const memcg = mm.layout.mm.memcg.get(this.#mm);
    return {
      seconds: (performance.now() - this.#started) / 1000,
      checked: this.#sum('checked'),
      misses: this.#sum('misses'),
      scratchChecked: this.#sum('scratchChecked'),
      vmmChecked: report.checked.load(keeper),
      swapOuts: mm.vmstat.read('pswpout'),
      swapIns: mm.vmstat.read('pswpin'),
      ageingClears: kvm.layout.vm.aged.load(this.#vm),
      ageingPasses: memcg === 0 ? 0 : mm.layout.lruvec.pass.load(mm.lru.lruvecOf(memcg)),
      unmaps: report.unmaps.load(keeper),
      cowBreaks: mm.vmstat.read('cow_copy'),
      forks: report.forks.load(keeper),
      mergesBroken: mm.vmstat.read('cow_ksm'),
      faultRetries: kvm.layout.vm.pfRetried.load(this.#vm),
      userFaults: this.#sum('asked'),
      wpFaults: this.#sum('protections'),
      blocked: this.#sum('blocked'),
      sigbusFilled: this.#sum('sigbus'),
      moves: this.#sum('moves'),
      splits: mm.vmstat.read('thp_split_pmd'),
      collapses: this.#sum('collapses'),
      events: this.#sum('events'),
      lost: this.#sum('lost'),
      stale: STALE.reduce((sum, name) => sum + this.#sum(name), 0),
      staleScratch: this.#sum('staleScratch'),
      staleTwin: this.#sum('staleTwin'),
      staleChild: this.#sum('staleChild'),
      staleProtected: this.#sum('staleProtected'),
      failed: this.#sum('failed'),
      problems: this.#problems,
      notes: this.#notes,
    };
  }
}

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));

/** Runs the lost-write stress once. Resolves when every thread has ended. */
export function runStress(options: StressOptions): Promise<StressResult> {
  return new StressRun(options).run();
}
