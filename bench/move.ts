// what it costs to bring a page to a guest by COPY and by MOVE, beside 1 to 16 vCPUs that run. COPY moves 4 KiB
// of bytes and asks nobody. MOVE writes two entries; but where a vCPU may have used the page, all are asked to forget
// it, and answer at their next stop-point, once for each call. With more vCPUs than cores an answer comes when the
// scheduler lets it, which is the objection that was made to moving in 2014.

import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { VCPU_WORDS } from '../src/cpu/vcpu.ts';
import { spawnWorker } from '../src/host/node/spawn.ts';
import { Kvm, Protocol, Vms } from '../src/kvm/index.ts';
import { MAX_VCPUS } from '../src/kvm/layout.ts';
import { Arena, createPageOps, initMm, type MmCore, Sync, UffdMode } from '../src/mm/index.ts';
import type { Ptr } from '../src/sync/struct.ts';
import { load, median } from './lib.ts';
import type { MoveVcpuData } from './move-vcpu.ts';

const PAGE = 4096;
const PAGES = 64;
const VCPUS = [1, 2, 4, 8, 16];
const SLOT_GFN = 16;
const BATCH = 32;
/** Enough, where a call may take tens of milliseconds. */
const CALLS = 16;
const ROUNDS = 3;

/** A VM over an area that is asked for (first half of the slot) and one where pages come from. */
class Rig {
  readonly #mm: MmCore;
  readonly #kvm: Kvm;
  readonly #space: Ptr<'mm'>;
  /** A VM has eight vCPUs at most; sixteen are two VMs over the same memory. */
  readonly #vms: Ptr<'vm'>[] = [];
  readonly #ctx: Ptr<'uffd'>;
  readonly #to: number;
  readonly #from: number;
  readonly #bytes = new Uint8Array(BATCH * PAGE).fill(7);
  readonly #workers: Worker[] = [];
  readonly #stop: number;

  constructor(vcpus: number) {
    const arena = Arena.create({ frames: 16 * PAGES, heapBytes: 16 << 20, shared: true });
    const sync = new Sync(arena);
    this.#mm = initMm(sync, { pageOps: createPageOps(arena.memory, true) });
    this.#kvm = new Kvm(sync, this.#mm, { dropCode() {} });
    const vms = new Vms(this.#kvm, this.#mm.notifiers);
    this.#space = this.#mm.createMm();
    this.#to = this.#mm.mmap.map(this.#space, 2 * PAGES * PAGE);
    this.#from = this.#to + PAGES * PAGE;
    this.#ctx = this.#mm.uffds.create(this.#space, 0);
    this.#mm.uffdRegister.register(this.#ctx, this.#to, PAGES * PAGE, UffdMode.Missing);
    this.#stop = this.#mm.heap.alloc(1024);
    for (let i = 0; i < vcpus; i++) {
      if (i % MAX_VCPUS === 0) this.#vms.push(this.#createVm(vms));
      this.#addVcpu(vms, arena.memory);
    }
  }

  #createVm(vms: Vms): Ptr<'vm'> {
    const vm = vms.create({ mm: this.#space, protocol: Protocol.Modern });
    this.#kvm.memslots.set(vm, {
      slot: 0,
      guestAddress: SLOT_GFN * PAGE,
      lengthBytes: 2 * PAGES * PAGE,
      hostAddress: this.#to,
    });
    return vm;
  }

  #addVcpu(vms: Vms, memory: WebAssembly.Memory): void {
    const { mm, vcpuFields } = this.#kvm;
    const vcpu = mm.heap.alloc(VCPU_WORDS) as Ptr<'vcpu'>;
    vms.addVcpu(this.#vms.at(-1)!, vcpu);
    const data: MoveVcpuData = {
      memory,
      mode: vcpu + vcpuFields.mode,
      requests: vcpu + vcpuFields.requests,
      stop: this.#stop,
    };
    this.#workers.push(spawnWorker(new URL('./move-vcpu.ts', import.meta.url), data));
  }

  async ready(): Promise<void> {
    await Promise.all(this.#workers.map(worker => once(worker, 'message')));
  }

  async end(): Promise<void> {
    Atomics.store(this.#mm.sync.words, this.#stop, 1);
    await Promise.all(this.#workers.map(worker => once(worker, 'exit')));
  }

  #empty(): void {
    this.#mm.madvise.advise(this.#space, this.#to, PAGES * PAGE, 'dontneed');
  }

  /** Pages to move; with `used`, the guest has them in its tables. */
  #supply(used: boolean): void {
    this.#empty();
    for (let page = 0; page < PAGES; page++) {
      this.#mm.access.write8(this.#space, this.#from + page * PAGE, 5);
      for (const vm of used ? this.#vms : []) this.#kvm.fault.resolve(vm, 0, SLOT_GFN + PAGES + page, 1);
    }
  }

  /** Median nanoseconds a page. */
  #measure(batch: number, bring: (offset: number, bytes: number) => number): number {
    const times: number[] = [];
    for (let page = 0; page < Math.min(PAGES, CALLS * batch); page += batch) {
      const start = performance.now();
      if (bring(page * PAGE, batch * PAGE) !== 0) throw new Error('move: refused');
      times.push(((performance.now() - start) * 1e6) / batch);
    }
    return median(times);
  }

  copy(batch: number): number {
    this.#empty();
    return this.#measure(batch, (at, n) =>
      this.#mm.mfill.copy(this.#ctx, this.#to + at, this.#bytes.subarray(0, n), n),
    );
  }

  move(batch: number, used: boolean): number {
    this.#supply(used);
    return this.#measure(batch, (at, n) =>
      this.#mm.move.move(this.#ctx, this.#space, this.#to + at, this.#from + at, n, 0),
    );
  }
}

const us = (ns: number): string => (ns / 1000).toFixed(2).padStart(10);

async function row(vcpus: number): Promise<string> {
  const rig = new Rig(vcpus);
  await rig.ready();
  const kinds = [
    () => rig.copy(1),
    () => rig.copy(BATCH),
    () => rig.move(1, false),
    () => rig.move(1, true),
    () => rig.move(BATCH, true),
  ];
  const rounds = Array.from({ length: ROUNDS }, () => kinds.map(measure => measure()));
  await rig.end();
  const medians = kinds.map((_, i) => us(median(rounds.map(round => round[i]!))));
  return `${String(vcpus).padStart(6)}${medians.join('')}   ${load()}`;
}

/** Prints microseconds a page; there is no floor, as it is the machine's cores that decide. */
export async function run(): Promise<void> {
  console.log(`${' vCPUs      COPY  COPY x32'}${'  MOVE new MOVE used  used x32'}   load`);
  for (const vcpus of VCPUS) console.log(await row(vcpus));
}
