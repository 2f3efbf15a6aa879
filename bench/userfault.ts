import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { spawnWorker } from '../src/host/node/spawn.ts';
import { Arena, createPageOps, initMm, type MmCore, Sync, UffdFeature, UffdMode } from '../src/mm/index.ts';
import { VmFlag } from '../src/mm/layout.ts';
import type { Ptr } from '../src/sync/struct.ts';
import { load, median, type Pair, verdict } from './lib.ts';

// What a user fault costs from the touch to the instruction after it, ours against the kernel's userfaultfd on
// this machine: resolved by the same thread (SIGBUS), by another one, and of write protection. Beside them what
// COPY and MOVE of one page cost a manager that fills ahead, and what an ordinary first touch costs.

const PAGE = 4096;
/** As many as the kernel's program has, so that both find them in the processor's caches. */
const PAGES = 512;
/** Accesses timed together: the clock costs 40 ns. */
const SAMPLE = 64;
/** A round takes half a second. A neighbour of the host slows one processor for seconds, by half and more. */
const ROUNDS = 15;
/** How often ours must be cheaper, and what it is meant to be: kernel's time over ours. */
const FLOORS = {
  'missing, in thread': { floor: 6, goal: 12 },
  'missing, another thread': { floor: 2, goal: 5 },
  'protected, in thread': { floor: 10, goal: 25 },
} as const;
type Figures = Record<string, number>;

/** Median nanoseconds of one call of `work`. */
function measure(pages: number, sample: number, work: (page: number) => void): number {
  const times: number[] = [];
  for (let page = 0; page + sample <= pages; page += sample) {
    const start = performance.now();
    for (let i = 0; i < sample; i++) work(page + i);
    times.push(((performance.now() - start) * 1e6) / sample);
  }
  times.sort((a, b) => a - b);
  return times[times.length >> 1]!;
}

/** The Host's one arena and this thread's core, which all address spaces share. */
function createCore(): MmCore {
  const arena = Arena.create({ frames: 16 * PAGES, heapBytes: 32 << 20, shared: true });
  return initMm(new Sync(arena), { pageOps: createPageOps(arena.memory, true) });
}

/** An address space of a production Host's kind, with a context over one area and a source beside it. */
class Rig {
  readonly core: MmCore;
  readonly #mm: Ptr<'mm'>;
  readonly ctx: Ptr<'uffd'>;
  readonly #area: number;
  readonly #from: number;
  readonly #source = new Uint8Array(PAGE).fill(7);

  constructor(core: MmCore) {
    this.core = core;
    this.#mm = core.createMm({ limitPages: 3 * PAGES });
    this.ctx = core.uffds.create(this.#mm, 0);
    this.#area = core.mmap.map(this.#mm, PAGES * PAGE);
    this.#from = core.mmap.map(this.#mm, PAGES * PAGE, { flags: { lo: VmFlag.DontDump } });
  }

  /** Empties the area, and registers it with these modes; the context gets these features. */
  #arm(mode: number, features: number): void {
    this.core.uffdRegister.unregister(this.ctx, this.#area, PAGES * PAGE);
    this.core.madvise.advise(this.#mm, this.#area, PAGES * PAGE, 'dontneed');
    this.#register(mode, features);
  }

  #register(mode: number, features: number): void {
    if (mode !== 0) this.core.uffdRegister.register(this.ctx, this.#area, PAGES * PAGE, mode);
    this.core.layout.uffd.features.store(this.ctx, features);
  }

  readonly #touch = (page: number): void => {
    this.core.access.write8(this.#mm, this.#area + page * PAGE, 1);
  };

  /** An access is made again after its handler has filled the hole. */
  inThread(): number {
    const { access, mfill } = this.core;
    this.#arm(UffdMode.Missing, UffdFeature.Sigbus);
    const off = access.onSigbus(
      (_mm, address) => mfill.copy(this.ctx, address - (address % PAGE), this.#source, PAGE) === 0,
    );
    const figure = measure(PAGES, SAMPLE, this.#touch);
    off();
    return figure;
  }

  writeProtected(): number {
    const { access, writeProtect } = this.core;
    this.#arm(0, 0);
    for (let page = 0; page < PAGES; page++) this.#touch(page);
    this.#register(UffdMode.Wp, UffdFeature.Sigbus);
    if (writeProtect.protect(this.ctx, this.#area, PAGES * PAGE, 1) !== 0) throw new Error('not protected');
    const off = access.onSigbus(
      (_mm, address) => writeProtect.protect(this.ctx, address - (address % PAGE), PAGE, 0) === 0,
    );
    const figure = measure(PAGES, SAMPLE, this.#touch);
    off();
    return figure;
  }

  /** For a manager on another thread: each access is timed by itself, as in the kernel's program. */
  anotherThread(pages: number): number {
    this.#arm(UffdMode.Missing, 0);
    return measure(pages, 1, this.#touch);
  }

  /** COPY from bytes and from an address, and MOVE, a page a call; then an ordinary first touch. */
  ahead(): Figures {
    const { mfill, move, access } = this.core;
    this.#arm(UffdMode.Missing, 0);
    const to = (page: number): number => this.#area + page * PAGE;
    const copy = measure(PAGES, SAMPLE, page => void mfill.copy(this.ctx, to(page), this.#source, PAGE));
    this.#arm(UffdMode.Missing, 0);
    for (let page = 0; page < PAGES; page++) access.write8(this.#mm, this.#from + page * PAGE, 5);
    const from = (page: number): number => this.#from + (page % 64) * PAGE;
    const copyFrom = measure(
      PAGES,
      SAMPLE,
      page => void mfill.copyFrom(this.ctx, to(page), this.#mm, from(page), PAGE),
    );
    this.#arm(UffdMode.Missing, 0);
    const moved = measure(PAGES, SAMPLE, page => {
      if (move.move(this.ctx, this.#mm, to(page), this.#from + page * PAGE, PAGE, 0) !== 0)
        throw new Error('MOVE failed');
    });
    this.#arm(0, 0);
    const touch = measure(PAGES, SAMPLE, this.#touch);
    return {
      'COPY alone': copy,
      'COPY from an address': copyFrom,
      'MOVE alone': moved,
      'first touch': touch,
    };
  }
}

/** A rig whose faults another thread answers, for as long as `work` lasts. */
async function withManager<T>(core: MmCore, work: (rig: Rig) => T): Promise<T> {
  const rig = new Rig(core);
  const worker = spawnWorker(new URL('./userfault-manager.ts', import.meta.url), {
    memory: core.sync.arena.memory,
    context: rig.ctx,
  });
  await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  try {
    return work(rig);
  } finally {
    rig.core.layout.uffd.flags.set(rig.ctx, -1);
    await worker.terminate();
  }
}

/** The kernel's program, or undefined where there is no compiler or no userfaultfd. */
function buildBaseline(folder: string): string | undefined {
  const program = join(folder, 'userfault');
  const source = fileURLToPath(new URL('./kernel/userfault.c', import.meta.url));
  try {
    execFileSync('gcc', ['-O2', '-pthread', '-o', program, source], { stdio: 'pipe' });
    return execFileSync(program, { encoding: 'utf8' }) === '' ? undefined : program;
  } catch {
    return undefined;
  }
}

/**
 * As the kernel's program: this thread on processor 0, the manager (with all other threads) on processor 1, so
 * that a processor which a neighbour of the host slows slows both sides.
 */
function pin(): void {
  const pid = String(process.pid);
  try {
    execFileSync('taskset', ['-a', '-c', '-p', '1', pid], { stdio: 'pipe' });
    execFileSync('taskset', ['-c', '-p', '0', pid], { stdio: 'pipe' });
  } catch {
    console.log('  the threads go where they like: no taskset, or one processor only');
  }
}

/** Median by name; the last line of a name counts. */
function runBaseline(program: string): Figures {
  const figures: Figures = {};
  for (const line of execFileSync(program, { encoding: 'utf8' }).trim().split('\n')) {
    const [name, , p50] = line.split('\t');
    figures[name!] = Number(p50);
  }
  return figures;
}

/** The median of some rounds, the way the kernel's program has each of its own. */
const often = (work: () => number): number => median(Array.from({ length: 31 }, work));

function round(rig: Rig, managed: Rig): Figures {
  return {
    'missing, in thread': often(() => rig.inThread()),
    'protected, in thread': often(() => rig.writeProtected()),
    'missing, another thread': managed.anotherThread(PAGES),
    ...rig.ahead(),
  };
}

function compare(rig: Rig, managed: Rig, program: string | undefined): boolean | undefined {
  pin();
  for (let i = 0; i < 3; i++) round(rig, managed);
  const pairs = new Map<string, Pair[]>(Object.keys(FLOORS).map(name => [name, []]));
  let [ours, theirs]: Figures[] = [{}, {}];
  for (let i = 0; i < (program === undefined ? 1 : ROUNDS); i++) {
    ours = round(rig, managed);
    theirs = program === undefined ? {} : runBaseline(program);
    // The kernel's time over ours: how many times cheaper we are.
    for (const [name, all] of pairs) all.push({ ours: theirs[name]!, theirs: ours![name]! });
    console.log(
      `  pair ${i + 1}: ${[...pairs].map(([name, all]) => `${name} ${ratio(all.at(-1)!)}`).join('  ')}  load ${load()}`,
    );
  }
  console.log(`${'ns, median of the last round'.padEnd(30)}${'ours'.padStart(10)}${'kernel'.padStart(10)}`);
  for (const [name, value] of Object.entries(ours!))
    console.log(
      name.padEnd(30) + value.toFixed(0).padStart(10) + (theirs![name]?.toFixed(0) ?? '').padStart(10),
    );
  if (program === undefined) {
    console.log('userfault: not run against the kernel: no gcc, or no userfaultfd, here');
    return undefined;
  }
  let met = true;
  for (const [name, { floor, goal }] of Object.entries(FLOORS))
    met = verdict(`${name} (goal ${goal})`, pairs.get(name)!, { atLeast: floor }) && met;
  return met;
}

const ratio = (pair: Pair): string => `${(pair.ours / pair.theirs).toFixed(1)}x`;

/** Prints the figures; false when a floor is not met. */
export async function run(): Promise<boolean | undefined> {
  const folder = mkdtempSync(join(tmpdir(), 'faultline-bench-'));
  try {
    const program = buildBaseline(folder);
    const core = createCore();
    return await withManager(core, managed => compare(new Rig(core), managed, program));
  } finally {
    rmSync(folder, { recursive: true });
  }
}
