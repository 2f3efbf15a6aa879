import type { Vpn } from '../base/units.ts';
import type { MmuNotifierOps } from '../mm/mmu-notifier-ops.ts';
import type { Ptr } from '../sync/struct.ts';
import type { GfnRange } from './hva-range.ts';
import type { Kvm } from './kvm.ts';

type Vm = Ptr<'vm'>;

/**
 * The callbacks of 2008 (K-10 to K-13), with the defects of part B repaired: a sequence lock around the
 * zap, leaves that hold page references, release registered.
 */
export function seqlockNotifier(kvm: Kvm): MmuNotifierOps {
  const { vm: v } = kvm.layout;
  const { sync } = kvm;
  const range: GfnRange = { slot: 0 as Ptr<'slot'>, first: 0, last: 0 };

  const writeBegin = (vm: Vm): void => {
    sync.lock('invalidate', vm + v.invLock.at);
    v.invSeq.add(vm, 1);
    sync.y('I.b');
  };

  const writeEnd = (vm: Vm): void => {
    v.invSeq.add(vm, 1);
    sync.waiter.notify(vm + v.invSeq.at, Number.POSITIVE_INFINITY);
    sync.y('I.e');
    sync.unlock('invalidate', vm + v.invLock.at);
  };

  /** Zaps [start, end) in all slots; the references go only after the flush (K-8, K-11). */
  const unmapHva = (vm: Vm, start: Vpn, end: Vpn): void => {
    const token = kvm.srcu.readLock(vm + v.srcuIndex.at);
    sync.lock('mmu', vm + v.mmuLock.at);
    sync.y('I.l');
    kvm.pins.begin();
    const set = kvm.memslots.active(vm);
    let zapped = 0;
    for (let i = 0; kvm.hvaRange(set, i, start, end, range) !== 0; i++) {
      if (!kvm.breaks.skipZap)
        zapped += kvm.mmu.zapRange(vm, range.slot, range.first, range.last, kvm.pins.remember);
      if (kvm.breaks.firstSlotOnly && range.first !== range.last) break;
    }
    sync.y('I.z');
    if (zapped > 0) kvm.requests.flushRemoteTlbs(vm);
    sync.y('I.f');
    sync.unlock('mmu', vm + v.mmuLock.at);
    kvm.srcu.readUnlock(vm + v.srcuIndex.at, token);
    sync.y('I.u');
  };

  const invalidate = (vm: Vm, start: Vpn, end: Vpn): void => {
    writeBegin(vm);
    unmapHva(vm, start, end);
    writeEnd(vm);
    kvm.pins.release(vm);
    sync.y('I.x');
  };

  return {
    name: 'kvm-seqlock',
    pins: true,
    invalidatePage: (subscriber, _mm, page) => invalidate(subscriber as Vm, page, page + 1),
    invalidateRangeEnd: (subscriber, _mm, start, end) => invalidate(subscriber as Vm, start, end),
    agePage: (subscriber, _mm, page) => kvm.age(subscriber as Vm, page, page + 1, true, true),
    ageingPassEnd: subscriber => kvm.bumpTlbs(subscriber as Vm),
    release: subscriber => kvm.releaseMm(subscriber as Vm),
  };
}
