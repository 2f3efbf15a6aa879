import { assert } from '../../base/assert.ts';
import { Mode, Request } from '../../cpu/interface.ts';
import { AT, VCPU_WORDS } from '../../cpu/vcpu.ts';
import type { KvmBreaks } from '../../kvm/breaks.ts';
import { Kvm } from '../../kvm/kvm.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { AnyCase, Case } from '../case.ts';
import { heapOnly } from '../heap-only.ts';

// J-7 by itself: who takes frames away, and a vCPU that has them in its TLB. The list of names holds one.

type Breaks = Partial<KvmBreaks> & {
  /** The vCPU reads the names first, and clears the bit after. */
  namesBeforeClear: boolean;
};
type Core = { sync: Sync; kvm: Kvm; breaks: Partial<Breaks> };
type Setup = { vm: Ptr<'vm'>; vcpu: Ptr<'vcpu'>; freed: number };

const NAMES = 2;
const FRAMES = [1, 2, 3] as const;
type Frame = (typeof FRAMES)[number];

function setup({ sync, kvm }: Core): Setup {
  const { heap } = kvm.mm;
  const vm = heap.alloc(kvm.layout.vm.words) as Ptr<'vm'>;
  kvm.layout.vm.flushList.set(vm, kvm.requests.createList());
  const vcpu = heap.alloc(VCPU_WORDS) as Ptr<'vcpu'>;
  kvm.requests.join(vm, vcpu);
  Atomics.store(sync.words, vm + kvm.layout.vm.vcpus.at, vcpu);
  kvm.layout.vm.vcpuCount.add(vm, 1);
  return { vm, vcpu, freed: heap.alloc(8) };
}

/** Zaps the frames, then waits for the flush without mmu_lock, as a batch of reclaim does; then frees them. */
function takeAway({ sync, kvm }: Core, { vm, freed }: Setup, frames: readonly Frame[]): void {
  const lock = vm + kvm.layout.vm.mmuLock.at;
  for (const frame of frames) {
    sync.lock('mmu', lock);
    kvm.requests.name(vm, frame);
    sync.unlock('mmu', lock);
  }
  kvm.requests.flushRemoteTlbs(vm);
  for (const frame of frames) Atomics.store(sync.words, freed + frame, 1);
}

/** A stop-point, and then the guest uses every frame that it still translates to. */
function guest(core: Core, { vcpu, freed }: Setup): void {
  const { words } = core.sync;
  const tlb = new Set<Frame>(FRAMES);
  Atomics.store(words, vcpu + AT.mode, Mode.InGuest);
  if (Atomics.load(words, vcpu + AT.requests) !== 0) serve(core, vcpu, tlb);
  for (const frame of tlb) {
    assert(Atomics.load(words, freed + frame) === 0, 'OR-1: a vCPU uses a frame that was freed');
  }
  Atomics.store(words, vcpu + AT.mode, Mode.Outside);
}

function serve({ sync, kvm, breaks }: Core, vcpu: Ptr<'vcpu'>, tlb: Set<Frame>): void {
  const names = new Int32Array(NAMES);
  const clear = () => Atomics.and(sync.words, vcpu + AT.requests, ~Request.FlushPages);
  if (!breaks.namesBeforeClear) clear();
  const count = kvm.requests.named(vcpu, names);
  if (breaks.namesBeforeClear) clear();
  sync.y(count < 0 ? 'V.all' : 'V.named');
  if (count < 0) tlb.clear();
  for (let i = 0; i < count; i++) tlb.delete(names[i] as Frame);
  // The whole flush may have been asked for as well; it is acknowledged with the TLB empty.
  if ((Atomics.load(sync.words, vcpu + AT.requests) & Request.FlushTlb) === 0) return;
  tlb.clear();
  Atomics.and(sync.words, vcpu + AT.requests, ~Request.FlushTlb);
}

const base = {
  profiles: ['modern'],
  arena: { frames: 1, heapBytes: 4096 * 4 },
  everyAtomic: true,
  core: (sync: Sync, { breaks }: { breaks: Partial<Breaks> }): Core => ({
    sync,
    kvm: new Kvm(sync, heapOnly(sync), { dropCode() {} }, breaks, NAMES),
    breaks,
  }),
  reset() {},
  setup,
  oracle({ kvm, sync }: Core, { vm, vcpu }: Setup) {
    assert(kvm.layout.vm.remoteTlbFlush.load(vm) === 2, 'a flush is not counted');
    assert(sync.words[vcpu + AT.mode] === Mode.Outside, 'the vCPU has not left');
  },
} as const;

const named: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'T-TLB-01 named',
  title: 'two threads take a frame each from a vCPU that uses both (J-7, J-9)',
  actors: {
    vcpu: guest,
    reclaim: (core, s) => takeAway(core, s, [1]),
    other: (core, s) => takeAway(core, s, [2]),
  },
  reach: { 'one frame is named': 'vcpu:V.named', 'both are, at once': 'vcpu:V.all' },
  mutants: [
    { name: 'nothing is named', breaks: { forgetNames: true } },
    { name: 'asked before the frame is named', breaks: { namesAfterRequest: true } },
    { name: 'flush without waiting', breaks: { flushWithoutAck: true } },
    { name: 'the bit is cleared after the names were read', breaks: { namesBeforeClear: true } },
  ],
};

const overrun: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'T-TLB-01 overrun',
  title: 'a batch of two frames overruns the list while the vCPU reads it (J-7, J-9)',
  actors: {
    vcpu: guest,
    reclaim: (core, s) => takeAway(core, s, [1]),
    other: (core, s) => takeAway(core, s, [2, 3]),
  },
  reach: { 'one frame is named': 'vcpu:V.named', 'too many are': 'vcpu:V.all' },
  mutants: [
    { name: 'a vCPU that was left behind goes by what it finds', breaks: { forgetOverflow: true } },
    { name: 'a vCPU does not see that it was overtaken', breaks: { trustNames: true } },
  ],
};

export const cases: readonly AnyCase[] = [named, overrun];
