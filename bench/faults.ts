import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Kvm, Vms } from '../src/kvm/index.ts';
import { Arena, createPageOps, GUP_PFN_MASK, initMm, type MmCore, Sync } from '../src/mm/index.ts';
import { buildBaseline, type Figure, type Figures, runBaseline } from './baseline.ts';
import { load, median, type Pair, verdict } from './lib.ts';

// What a fault of anonymous memory costs, in nanoseconds, ours against the kernel's on this machine. The bar
// compares like with like: VMA, table, charge, frame, zeroing, rmap, LRU, pte. "With spte" is what a vCPU's
// first touch takes in all: memslot, that, and the entry of the secondary MMU.

const PAGE = 4096;
const PAGES = 16384;
/** Faults timed together: the clock costs 40 ns. */
const SAMPLE = 128;

/** Calls `fault` for each page and returns the percentiles of its samples. */
function measure(fault: (page: number) => void): Figure {
  const times: number[] = [];
  for (let page = 0; page < PAGES; page += SAMPLE) {
    const start = performance.now();
    for (let i = 0; i < SAMPLE; i++) fault(page + i);
    times.push(((performance.now() - start) * 1e6) / SAMPLE);
  }
  times.sort((a, b) => a - b);
  return { p10: times[Math.floor(times.length / 10)]!, p50: times[times.length >> 1]! };
}

/** A guest's memory with its secondary MMU, in an arena of a production Host's kind. */
class Rig {
  readonly mm: MmCore;
  readonly #kvm: Kvm;
  readonly #vms: Vms;

  constructor() {
    const arena = Arena.create({ frames: 4 * PAGES, heapBytes: 32 << 20, shared: true });
    const sync = new Sync(arena);
    this.mm = initMm(sync, { pageOps: createPageOps(arena.memory, true) });
    this.#kvm = new Kvm(sync, this.mm, { dropCode() {} });
    this.#vms = new Vms(this.#kvm, this.mm.notifiers);
  }

  #space() {
    const space = this.mm.createMm({ limitPages: 3 * PAGES });
    const address = this.mm.mmap.map(space, PAGES * PAGE);
    const vpn = address / PAGE;
    const touch = (mm: typeof space, write: boolean) => (page: number) => {
      this.mm.pages.put(this.mm.gup.fault(mm, vpn + page, write) & GUP_PFN_MASK);
    };
    return { space, address, touch };
  }

  /** The mm alone: first touch, zero page, write to it, copy and reuse after a fork. */
  mmRound(): Figures {
    const { space, address, touch } = this.#space();
    const figures: Figures = {};
    figures['write fault'] = measure(touch(space, true));
    this.mm.madvise.advise(space, address, PAGES * PAGE, 'dontneed');
    figures['zero page'] = measure(touch(space, false));
    figures['write to the zero page'] = measure(touch(space, true));
    const child = this.mm.fork(space);
    figures['copy on write'] = measure(touch(child, true));
    this.mm.exit(child);
    figures['reuse on write'] = measure(touch(space, true));
    this.mm.exit(space);
    return figures;
  }

  /** First touch through the secondary MMU. */
  fullRound(): Figure {
    const { space, address } = this.#space();
    const vm = this.#vms.create({ mm: space });
    const lengthBytes = PAGES * PAGE;
    this.#kvm.memslots.set(vm, { slot: 0, guestAddress: 0x80000000, lengthBytes, hostAddress: address });
    const gfn = 0x80000;
    const figure = measure(page => {
      if (this.#kvm.fault.resolve(vm, 0, gfn + page, 1) < 0) throw new Error('the fault was not resolved');
    });
    this.#vms.destroy(vm);
    this.mm.exit(space);
    return figure;
  }
}

const row = (name: string, figures: (Figure | undefined)[]): string =>
  name.padEnd(26) +
  figures
    .map(f => (f === undefined ? '' : `${f.p10.toFixed(0)} / ${f.p50.toFixed(0)}`).padStart(16))
    .join('');

/** Prints the figures; false when the kernel's write fault is cheaper than ours. */
export function run(): boolean | undefined {
  const rig = new Rig();
  const cold = { mm: rig.mmRound(), full: rig.fullRound() };
  for (let i = 0; i < 4; i++) {
    rig.mmRound();
    rig.fullRound();
  }
  const folder = mkdtempSync(join(tmpdir(), 'faultline-bench-'));
  try {
    return compare(rig, cold, buildBaseline(folder, 'faults'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function compare(
  rig: Rig,
  cold: { mm: Figures; full: Figure },
  program: string | undefined,
): boolean | undefined {
  const pairs: Pair[] = [];
  let ours: Figures = {};
  let theirs: Figures = {};
  for (let i = 0; i < (program === undefined ? 1 : 5); i++) {
    ours = { ...rig.mmRound(), full: rig.fullRound() };
    if (program === undefined) break;
    theirs = runBaseline(program);
    const pair = { ours: ours.full!.p50, theirs: theirs['write fault']!.p50 };
    pairs.push(pair);
    console.log(
      `  pair ${i + 1}: full minor fault ${pair.ours.toFixed(0)} ns  kernel ${pair.theirs.toFixed(0)} ns  ratio ${(pair.ours / pair.theirs).toFixed(3)}  load ${load()}`,
    );
  }
  console.log(
    `${'ns a fault, p10 / p50'.padEnd(26)}${'ours'.padStart(16)}${'ours, cold'.padStart(16)}${'kernel'.padStart(16)}`,
  );
  console.log(row('write fault with spte', [ours.full, cold.full, undefined]));
  for (const name of Object.keys(cold.mm)) {
    console.log(row(name, [ours[name], cold.mm[name], theirs[name]]));
  }
  if (theirs['write fault, cold'])
    console.log(row('write fault, host cold', [undefined, undefined, theirs['write fault, cold']]));
  if (program === undefined) {
    console.log('faults: not run against the kernel: no gcc here that builds the baseline');
    return undefined;
  }
  console.log(
    `full minor fault (mm, sequence check, spte, reverse map): median ${median(pairs.map(p => p.ours)).toFixed(0)} ns, kernel ${median(pairs.map(p => p.theirs)).toFixed(0)} ns`,
  );
  return verdict('faults', pairs, { atMost: 1 });
}
