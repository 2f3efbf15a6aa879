import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Arena, createPageOps, GUP_PFN_MASK, initMm, type MmCore, Sync } from '../src/mm/index.ts';
import { frameByte } from '../src/sync/arena.ts';
import { load, type Pair, verdict } from './lib.ts';

// What it costs to page memory out, compressed, and in again, against the kernel's zram with the same algorithm. The
// content is the first 64 MiB of this Node's own program: machine code, tables and text. The time is that of both ways.

const PAGE = 4096;
const PAGES = 16384;
const ROUNDS = 3;
/** How many times cheaper than the kernel's. */
const FLOOR = 1.5;
const GOAL = 3;

/** Nanoseconds a page; of several rounds the last, when everything is warm. */
type Cost = { out: number; in: number };

class Rig {
  readonly mm: MmCore;
  readonly #space: ReturnType<MmCore['createMm']>;
  readonly #address: number;

  constructor() {
    const arena = Arena.create({ frames: 3 * PAGES, heapBytes: 16 << 20, shared: true });
    const swap = { kind: 'zram', bytes: 2 * PAGES * PAGE } as const;
    this.mm = initMm(new Sync(arena), { pageOps: createPageOps(arena.memory, true), swap });
    this.#space = this.mm.createMm({ limitPages: 2 * PAGES });
    this.#address = this.mm.mmap.map(this.#space, PAGES * PAGE);
    this.#load(process.execPath);
  }

  #load(path: string): void {
    const fd = openSync(path, 'r');
    this.#each(true, (bytes, n) => void readSync(fd, bytes, 0, PAGE, n * PAGE));
    closeSync(fd);
  }

  #each(write: boolean, work: (bytes: Uint8Array, n: number) => void): void {
    const { gup, pages, sync } = this.mm;
    for (let n = 0; n < PAGES; n++) {
      const found = gup.fault(this.#space, this.#address / PAGE + n, write);
      if (found < 0) throw new Error(`zram: page ${n} can't be had: ${found}`);
      const at = frameByte(found & GUP_PFN_MASK);
      work(sync.arena.bytes.subarray(at, at + PAGE), n);
      pages.put(found & GUP_PFN_MASK);
    }
  }

  #touch(): void {
    const { gup, pages } = this.mm;
    for (let n = 0; n < PAGES; n++)
      pages.put(gup.fault(this.#space, this.#address / PAGE + n, false) & GUP_PFN_MASK);
  }

  round(): Cost {
    const start = cpu();
    this.mm.madvise.advise(this.#space, this.#address, PAGES * PAGE, 'pageout');
    const out = cpu();
    if (this.mm.layout.mm.swapEnts.load(this.#space) !== PAGES) throw new Error('zram: not every page went');
    this.#touch();
    const end = cpu();
    this.#each(true, bytes => {
      bytes[8]! ^= 1;
    });
    return { out: ((out - start) * 1e6) / PAGES, in: ((end - out) * 1e6) / PAGES };
  }

  cost(): Cost {
    let last = this.round();
    for (let i = 1; i < ROUNDS; i++) last = this.round();
    return last;
  }
}

/** The kernel's cost, or why there is none. */
function kernel(program: string): Cost | string {
  let text: string;
  try {
    text = execFileSync(program, [process.execPath], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  } catch (error) {
    return String((error as { stderr?: string }).stderr ?? error).trim();
  }
  const figures = new Map(
    text
      .trim()
      .split('\n')
      .map(line => line.split('\t') as [string, string]),
  );
  const swapped = Number(figures.get('swapped'));
  if (swapped < 0.99 * PAGES) return `the kernel paged out only ${swapped} of ${PAGES} pages`;
  return { out: Number(figures.get('out')), in: Number(figures.get('in')) };
}

function build(folder: string): string | undefined {
  const program = join(folder, 'zram');
  try {
    execFileSync('gcc', ['-O2', '-o', program, fileURLToPath(new URL('./kernel/zram.c', import.meta.url))], {
      stdio: 'pipe',
    });
    return program;
  } catch {
    return undefined;
  }
}

/** Milliseconds of processor time so far: a busy machine makes wall clocks say nothing. */
function cpu(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

const us = (ns: number): string => (ns / 1000).toFixed(1).padStart(6);

export function run(): boolean | undefined {
  const rig = new Rig();
  const folder = mkdtempSync(join(tmpdir(), 'faultline-bench-'));
  try {
    return compare(rig, build(folder));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function compare(rig: Rig, program: string | undefined): boolean | undefined {
  const pairs: Pair[] = [];
  for (let i = 0; i < 3; i++) {
    const mine = rig.cost();
    const theirs = program === undefined ? 'no gcc here that builds the baseline' : kernel(program);
    if (typeof theirs === 'string') {
      console.log(`  ours: out ${us(mine.out)} us a page, in ${us(mine.in)}`);
      console.log(`zram: not run against the kernel: ${theirs}`);
      return undefined;
    }
    // How many times ours the kernel's is.
    pairs.push({ ours: theirs.out + theirs.in, theirs: mine.out + mine.in });
    console.log(
      `  pair ${i + 1}: us a page, out ${us(mine.out)} in ${us(mine.in)}   kernel out ${us(theirs.out)} in ${us(theirs.in)}   ${((theirs.out + theirs.in) / (mine.out + mine.in)).toFixed(2)} times cheaper   load ${load()}`,
    );
  }
  console.log(`  goal: ${GOAL} times cheaper`);
  return verdict('zram, kernel over ours', pairs, { atLeast: FLOOR });
}
