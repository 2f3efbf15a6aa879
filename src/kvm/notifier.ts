import { assert } from '../base/assert.ts';
import type { Gfn, Vpn } from '../base/units.ts';
import { type MmuNotifierOps, NotifyFlag } from '../mm/mmu-notifier-ops.ts';
import type { Ptr } from '../sync/struct.ts';
import type { GfnRange } from './hva-range.ts';
import type { Kvm } from './kvm.ts';

const LINGER_MS = 5;

type Vm = Ptr<'vm'>;

/** The modern protocol's callbacks (K-20 to K-23, K-50). `subscriber` is the vm. */
export function modernNotifier(kvm: Kvm): MmuNotifierOps {
  const { vm: v } = kvm.layout;
  const { sync } = kvm;
  const range: GfnRange = { slot: 0 as Ptr<'slot'>, first: 0, last: 0 };

  /** Counts the invalidation in and widens the hull, for one range of a slot. Requires: 'mmu'. */
  const fold = (vm: Vm, first: Gfn, last: Gfn): void => {
    if (v.inProgress.load(vm) === 1 && !kvm.breaks.staleHull && v.rangeStart.get(vm) === v.rangeEnd.get(vm)) {
      v.rangeStart.set(vm, first);
      v.rangeEnd.set(vm, last);
      return;
    }
    v.rangeStart.set(vm, Math.min(v.rangeStart.get(vm), first));
    v.rangeEnd.set(vm, Math.max(v.rangeEnd.get(vm), last));
  };

  const begin = (vm: Vm): void => {
    if (kvm.breaks.inProgressFlag) v.inProgress.store(vm, 1);
    else v.inProgress.add(vm, 1);
    if (v.inProgress.load(vm) === 1 && !kvm.breaks.staleHull) {
      v.rangeStart.set(vm, 0);
      v.rangeEnd.set(vm, 0);
    }
    if (kvm.breaks.seqAtStart) v.seq.add(vm, 1);
  };

  /** Zaps every leaf of the hva range, in every slot that backs it (L-17). Returns how many. */
  const zapRange = (vm: Vm, start: Vpn, end: Vpn): number => {
    const set = kvm.memslots.active(vm);
    let zapped = 0;
    let begun = false;
    for (let i = 0; kvm.hvaRange(set, i, start, end, range) !== 0; i++) {
      if (range.first === range.last && !kvm.breaks.countUnseen) continue;
      if (!begun) {
        sync.lock('mmu', vm + v.mmuLock.at);
        sync.y('S.l');
        begin(vm);
        begun = true;
      }
      fold(vm, range.first, range.last);
      sync.y('S.n');
      if (!kvm.breaks.skipZap) zapped += kvm.mmu.zapRange(vm, range.slot, range.first, range.last);
      if (kvm.breaks.firstSlotOnly) break;
    }
    if (begun) sync.y('S.z');
    return begun ? zapped : -1;
  };

  return {
    name: 'kvm',
    pins: false,

    invalidateRangeStart(subscriber, _mm, start, end, _event, flags) {
      const vm = subscriber as Vm;
      sync.lock('mnInvalidate', vm + v.mnLock.at);
      v.mnActive.add(vm, 1);
      sync.unlock('mnInvalidate', vm + v.mnLock.at);
      sync.y('S.a');
      const token = kvm.srcu.readLock(vm + v.srcuIndex.at);
      const zapped = zapRange(vm, start, end);
      if (zapped >= 0) {
        if (zapped > 0 && (flags & NotifyFlag.DeferFlush) === 0) kvm.requests.flushRemoteTlbs(vm);
        sync.y('S.f');
        sync.unlock('mmu', vm + v.mmuLock.at);
      }
      kvm.srcu.readUnlock(vm + v.srcuIndex.at, token);
      sync.y('S.u');
      return 0;
    },

    flush(subscriber) {
      const vm = subscriber as Vm;
      // For the broken variant: time for a vCPU to bring a leaf back that has just gone.
      if (kvm.breaks.accessedBitOr && kvm.breaks.onlyMarked)
        sync.waiter.wait(vm + v.inProgress.at, v.inProgress.load(vm), LINGER_MS);
      kvm.requests.flushRemoteTlbs(vm);
    },

    invalidateRangeEnd(subscriber, _mm, start, end) {
      const vm = subscriber as Vm;
      if (kvm.backs(kvm.memslots.active(vm), start, end)) {
        sync.lock('mmu', vm + v.mmuLock.at);
        sync.y('E.l');
        if (kvm.breaks.decrementFirst) v.inProgress.add(vm, -1);
        if (!kvm.breaks.seqAtStart) v.seq.add(vm, 1);
        // A fault that sees in_progress at zero must also see the new sequence (K-23).
        sync.y('E.q');
        if (kvm.breaks.inProgressFlag) v.inProgress.store(vm, 0);
        else if (!kvm.breaks.decrementFirst) v.inProgress.add(vm, -1);
        assert(v.inProgress.load(vm) >= 0, 'K-22: an end without a start');
        sync.y('E.d');
        sync.unlock('mmu', vm + v.mmuLock.at);
        sync.waiter.notify(vm + v.inProgress.at, Number.POSITIVE_INFINITY);
        sync.y('E.u');
      }
      sync.lock('mnInvalidate', vm + v.mnLock.at);
      const before = v.mnActive.add(vm, -1);
      sync.unlock('mnInvalidate', vm + v.mnLock.at);
      if (before === 1) sync.waiter.notify(vm + v.mnActive.at, 1);
      sync.y('E.a');
    },

    clearFlushYoung: (subscriber, _mm, start, end) => kvm.age(subscriber as Vm, start, end, true, true),
    clearYoung: (subscriber, _mm, start, end) => kvm.age(subscriber as Vm, start, end, true, false),
    testYoung: (subscriber, _mm, page) => kvm.age(subscriber as Vm, page, page + 1, false, false),

    ageingPassEnd(subscriber) {
      kvm.bumpTlbs(subscriber as Vm);
    },

    release(subscriber) {
      kvm.releaseMm(subscriber as Vm);
    },
  };
}
