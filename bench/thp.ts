import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Kvm, Vms } from '../src/kvm/index.ts';
import { Arena, createPageOps, GUP_PFN_MASK, initMm, type MmCore, Sync } from '../src/mm/index.ts';
import { buildBaseline, type Figure, type Figures, runBaseline } from './baseline.ts';
import { load, median, type Pair, verdict } from './lib.ts';

// What a huge page costs, in microseconds, ours against the kernel's on this machine. Both sides clear 2 MiB, which
// is most of it; ours fills 512 page records besides (decision 4), and the kernel one.

const PAGE = 4096;
const HUGE = 512 * PAGE;
const AREAS = 64;

/** Calls `act` for each area and returns percentiles in nanoseconds. */
function measure(act: (area: number) => void): Figure {
  const times: number[] = [];
  for (let area = 0; area < AREAS; area++) {
    const start = performance.now();
    act(area);
    times.push((performance.now() - start) * 1e6);
  }
  times.sort((a, b) => a - b);
  return { p10: times[Math.floor(times.length / 10)]!, p50: times[times.length >> 1]! };
}

class Rig {
  readonly mm: MmCore;
  readonly #kvm: Kvm;
  readonly #vms: Vms;

  constructor() {
    const arena = Arena.create({ frames: (AREAS + 8) * 512, heapBytes: 32 << 20, shared: true });
    const sync = new Sync(arena);
    this.mm = initMm(sync, { pageOps: createPageOps(arena.memory, true) });
    this.#kvm = new Kvm(sync, this.mm, { dropCode() {} });
    this.#vms = new Vms(this.#kvm, this.mm.notifiers);
  }

  round(): Figures {
    const { mm } = this;
    const space = mm.createMm({ limitPages: (AREAS + 2) * 512 });
    const address = mm.mmap.map(space, AREAS * HUGE);
    mm.madvise.advise(space, address, AREAS * HUGE, 'hugepage');
    const touch = (area: number) => {
      mm.pages.put(mm.gup.fault(space, address / PAGE + area * 512, true) & GUP_PFN_MASK);
    };
    const before = mm.vmstat.read('thp_fault_alloc');
    const figures: Figures = {};
    figures['2 MiB write fault'] = measure(touch);
    figures['2 MiB DONTNEED'] = measure(area => {
      mm.madvise.advise(space, address + area * HUGE, HUGE, 'dontneed');
    });
    figures['with the guest’s leaf'] = this.#guest(space, address);
    if (mm.vmstat.read('thp_fault_alloc') !== before + 2 * AREAS) throw new Error('not every fault was huge');
    mm.exit(space);
    return figures;
  }

  /** A vCPU's first touch: memslot, the fault, one leaf of 2 MiB. */
  #guest(space: ReturnType<MmCore['createMm']>, address: number): Figure {
    const vm = this.#vms.create({ mm: space });
    const lengthBytes = AREAS * HUGE;
    this.#kvm.memslots.set(vm, { slot: 0, guestAddress: 0x80000000, lengthBytes, hostAddress: address });
    const figure = measure(area => {
      if (this.#kvm.fault.resolve(vm, 0, 0x80000 + area * 512, 1) < 0) throw new Error('not resolved');
    });
    this.#vms.destroy(vm);
    return figure;
  }
}

const us = (f: Figure | undefined): string =>
  f === undefined ? '' : `${(f.p10 / 1000).toFixed(1)} / ${(f.p50 / 1000).toFixed(1)}`;

/** Prints the figures; false when the kernel's huge fault is cheaper than ours. */
export function run(): boolean | undefined {
  const rig = new Rig();
  for (let i = 0; i < 4; i++) rig.round();
  const folder = mkdtempSync(join(tmpdir(), 'faultline-bench-'));
  try {
    return compare(rig, buildBaseline(folder, 'thp'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function compare(rig: Rig, program: string | undefined): boolean | undefined {
  const pairs: Pair[] = [];
  let ours: Figures = {};
  let theirs: Figures = {};
  for (let i = 0; i < (program === undefined ? 1 : 7); i++) {
    ours = rig.round();
    if (program === undefined) break;
    theirs = runBaseline(program);
    const pair = { ours: ours['2 MiB write fault']!.p50, theirs: theirs['2 MiB write fault']!.p50 };
    pairs.push(pair);
    console.log(
      `  pair ${i + 1}: 2 MiB write fault ${(pair.ours / 1000).toFixed(1)} us  kernel ${(pair.theirs / 1000).toFixed(1)} us  ratio ${(pair.ours / pair.theirs).toFixed(3)}  load ${load()}`,
    );
  }
  console.log(`${'us, p10 / p50'.padEnd(24)}${'ours'.padStart(16)}${'kernel'.padStart(16)}`);
  for (const name of Object.keys(ours)) {
    console.log(`${name.padEnd(24)}${us(ours[name]).padStart(16)}${us(theirs[name]).padStart(16)}`);
  }
  if (program === undefined) {
    console.log('thp: not run against the kernel: no gcc here that builds the baseline');
    return undefined;
  }
  console.log(`2 MiB write fault: median ${(median(pairs.map(p => p.ours)) / 1000).toFixed(1)} us`);
  return verdict('thp', pairs, { atMost: 1 });
}
