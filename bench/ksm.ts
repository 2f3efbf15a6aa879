import { execFileSync } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Arena, createPageOps, GUP_PFN_MASK, initMm, type MmCore, Sync } from '../src/mm/index.ts';
import { frameWord } from '../src/sync/arena.ts';
import { load, median, type Pair, verdict } from './lib.ts';

// How fast equal pages are merged, against ksmd unthrottled on this kernel: the same 65536 pages, two passes, from the
// first look to the last merge.

const PAGE = 4096;
const PAGES = 65536;
const FLOOR = 1;
const GOAL = 2;

type Rates = { merge: number; scan: number };

/** The n-th page: a quarter zeroes, half of 64 contents, a quarter unique. As in kernel/ksm.c. */
function content(n: number, words: Int32Array, at: number): void {
  const kind = n & 3;
  const seed = kind === 0 ? 0 : kind < 3 ? 1 + ((n >> 2) % 64) : 1000 + n;
  for (let j = 0; j < PAGE / 4; j++) {
    words[at + j] = seed === 0 ? 0 : (Math.imul(seed, 0x9e3779b9) + Math.imul(j, seed | 1)) | 0;
  }
}

function fill(mm: MmCore, space: ReturnType<MmCore['createMm']>, vpn: number): void {
  for (let n = 0; n < PAGES; n++) {
    const pfn = mm.gup.fault(space, vpn + n, true) & GUP_PFN_MASK;
    content(n, mm.sync.words, frameWord(pfn));
    mm.pages.put(pfn);
  }
}

/** One run over a space of its own; a pass more, over what can't be merged, is the rate of scanning. */
function ours(mm: MmCore): Rates {
  const space = mm.createMm();
  const address = mm.mmap.map(space, PAGES * PAGE);
  fill(mm, space, address / PAGE);
  mm.madvise.advise(space, address, PAGES * PAGE, 'mergeable');
  const start = performance.now();
  mm.ksm.fullScans(2);
  const merged = performance.now();
  const { pages_sharing, pages_scanned } = mm.ksm.stats();
  mm.ksm.fullScans(1);
  const scanned = performance.now();
  const looked = mm.ksm.stats().pages_scanned - pages_scanned;
  mm.exit(space);
  return {
    merge: (pages_sharing / (merged - start)) * 1000,
    scan: (looked / (scanned - merged)) * 1000,
  };
}

/** What of the kernel's is missing here, if anything. */
function missing(): string | undefined {
  try {
    accessSync('/sys/kernel/mm/ksm/run', constants.W_OK);
    return undefined;
  } catch {
    return 'no KSM here that may be set';
  }
}

function build(folder: string): string | undefined {
  const program = join(folder, 'ksm');
  try {
    execFileSync('gcc', ['-O2', '-o', program, fileURLToPath(new URL('./kernel/ksm.c', import.meta.url))], {
      stdio: 'pipe',
    });
    return program;
  } catch {
    return undefined;
  }
}

function kernel(program: string): Rates {
  const lines = execFileSync(program, { encoding: 'utf8' }).trim().split('\n');
  const figures = new Map(lines.map(line => line.split('\t') as [string, string]));
  return { merge: Number(figures.get('merge')), scan: Number(figures.get('scan')) };
}

const thousands = (rate: number): string => `${(rate / 1000).toFixed(0)} k`.padStart(8);

export function run(): boolean | undefined {
  const arena = Arena.create({ frames: PAGES + 4096, heapBytes: 8 << 20, shared: true });
  const mm = initMm(new Sync(arena), { pageOps: createPageOps(arena.memory, true) });
  ours(mm);
  const folder = mkdtempSync(join(tmpdir(), 'faultline-bench-'));
  try {
    return compare(mm, missing(), build(folder));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function compare(mm: MmCore, lack: string | undefined, program: string | undefined): boolean | undefined {
  if (lack !== undefined || program === undefined) {
    console.log(`  ours: ${thousands(ours(mm).merge)} merged a second`);
    console.log(`ksm: not run against the kernel: ${lack ?? 'no gcc here that builds the baseline'}`);
    return undefined;
  }
  const pairs: Pair[] = [];
  for (let i = 0; i < 3; i++) {
    const [mine, theirs] = [ours(mm), kernel(program)];
    pairs.push({ ours: mine.merge, theirs: theirs.merge });
    console.log(
      `  pair ${i + 1}: merged a second ${thousands(mine.merge)}  ksmd ${thousands(theirs.merge)}  ratio ${(mine.merge / theirs.merge).toFixed(2)}   looked at a second ${thousands(mine.scan)}  ksmd ${thousands(theirs.scan)}   load ${load()}`,
    );
  }
  const goal = median(pairs.map(p => p.ours / p.theirs)) >= GOAL;
  console.log(`  goal ${GOAL}: ${goal ? 'met' : 'not met'}`);
  return verdict('ksm', pairs, { atLeast: FLOOR });
}
