import type { Pfn } from '../base/units.ts';
import { FlushList, type FlushListPtr } from '../cpu/flush-list.ts';
import { askWrites } from '../cpu/flush-requests.ts';
import { FENCES, FLUSHES, Mode, Request, WRITES } from '../cpu/interface.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';

type Vm = Ptr<'vm'>;
type Vcpu = Ptr<'vcpu'>;

/** Asking vCPUs to do something at their next stop-point, and waiting until they have (J-7). */
export class Requests {
  readonly #kvm: Kvm;
  readonly #list: FlushList;
  /** For mutants only: names to publish late; whether a frame that is not to be lost was named. */
  readonly #late: Pfn[] = [];
  #mustWait = false;

  constructor(kvm: Kvm, names: number) {
    this.#kvm = kvm;
    this.#list = new FlushList(kvm.words, names, kvm.breaks);
  }

  vcpu(vm: Vm, index: number): Vcpu {
    return Atomics.load(this.#kvm.words, vm + this.#kvm.layout.vm.vcpus.at + index) as Vcpu;
  }

  make(vcpu: Vcpu, bits: number): void {
    const f = this.#kvm.vcpuFields;
    Atomics.or(this.#kvm.words, vcpu + f.requests, bits);
    this.#kvm.sync.waiter.notify(vcpu + f.requests, Number.POSITIVE_INFINITY);
  }

  makeAll(vm: Vm, bits: number): void {
    const count = this.#kvm.layout.vm.vcpuCount.load(vm);
    for (let i = 0; i < count; i++) this.make(this.vcpu(vm, i), bits);
  }

  /**
   * After a Stop: returns when no runner is inside a vCPU any more, its faults included. None comes back: a
   * runner says that it runs before it reads the requests, and Stop is never taken away.
   */
  awaitStopped(vm: Vm): void {
    const { words, sync, layout, vcpuFields } = this.#kvm;
    for (let i = 0; i < layout.vm.vcpuCount.load(vm); i++) {
      const running = this.vcpu(vm, i) + vcpuFields.running;
      while (Atomics.load(words, running) !== 0) sync.waiter.wait(running, 1, 1);
    }
  }

  /** A leaf that maps the frame is gone, or has fewer rights: the next flush is about it. Requires: 'mmu'. */
  name(vm: Vm, pfn: Pfn): void {
    const { layout, breaks } = this.#kvm;
    if (breaks.flushWithoutAck && !this.#kvm.isBroken(pfn)) this.#mustWait = true;
    if (breaks.namesAfterRequest) this.#late.push(pfn);
    else if (!breaks.forgetNames) this.#list.add(layout.vm.flushList.get(vm), pfn);
  }

  /** As `name`, for the 512 frames of a 2 MiB leaf. */
  nameAll(vm: Vm): void {
    this.#mustWait = true;
    this.#list.addAll(this.#kvm.layout.vm.flushList.get(vm));
  }

  /**
   * Returns when no vCPU can make an access through a translation that it cached before the call to a frame
   * that was named before the call, by this thread or another (J-7).
   */
  flushRemoteTlbs(vm: Vm): void {
    this.#kvm.layout.vm.remoteTlbFlush.add(vm, 1);
    const count = this.#kvm.layout.vm.vcpuCount.load(vm);
    for (let i = 0; i < count; i++) this.#askToFlush(this.vcpu(vm, i));
    if (this.#kvm.breaks.namesAfterRequest) this.#publishLate(vm);
    if (this.#kvm.breaks.flushWithoutAck && !this.#mustWait) return;
    this.#mustWait = false;
    for (let i = 0; i < count; i++) this.awaitServed(this.vcpu(vm, i), FLUSHES);
  }

  /** A vCPU that is too far behind is told so, as the count of names that it missed may wrap. */
  #askToFlush(vcpu: Vcpu): void {
    this.make(vcpu, this.#list.overran(vcpu) ? FLUSHES : Request.FlushPages);
  }

  /** For the mutant only. */
  #publishLate(vm: Vm): void {
    this.#kvm.sync.y('Q.late');
    for (const pfn of this.#late) this.#list.add(this.#kvm.layout.vm.flushList.get(vm), pfn);
    this.#late.length = 0;
  }

  /**
   * Waits until the vCPU has left guest mode or acknowledged the requests, which were made before. A vCPU in its
   * fault path is outside, so two vCPUs that zap each other's pages cannot deadlock.
   */
  awaitServed(vcpu: Vcpu, bits: number): void {
    const { words, sync } = this.#kvm;
    const f = this.#kvm.vcpuFields;
    for (let spins = 0; ; spins++) {
      if (Atomics.load(words, vcpu + f.mode) === Mode.Outside) return;
      const requests = Atomics.load(words, vcpu + f.requests);
      if ((requests & bits) === 0) return;
      if (spins > sync.waiter.spins(2000)) sync.waiter.wait(vcpu + f.requests, requests, 0.2);
    }
  }

  /**
   * For `CpuOptions.flushOthers`, which says what it promises: a frame became code, or, for frame 0, decoded pages
   * were dropped for good.
   */
  tellOfCode(vm: Vm, self: Vcpu, pfn: Pfn | 0): void {
    const count = this.#kvm.layout.vm.vcpuCount.load(vm);
    for (let i = 0; i < count; i++) {
      const other = this.vcpu(vm, i);
      if (other === self) continue;
      this.make(other, pfn === 0 ? Request.FenceI : askWrites(this.#kvm.words, other, pfn));
    }
    if (this.#kvm.breaks.codeWithoutAck) return;
    for (let i = 0; i < count; i++) {
      const other = this.vcpu(vm, i);
      if (other !== self) this.awaitServed(other, pfn === 0 ? FENCES : WRITES);
    }
  }

  /** Ties a vCPU that has cached nothing to the VM's list of names. */
  join(vm: Vm, vcpu: Vcpu): void {
    this.#list.join(this.#kvm.layout.vm.flushList.get(vm), vcpu);
  }

  /** What was named for a vCPU, for those who play one: `FlushList.take`. */
  named(vcpu: Vcpu, into: Int32Array): number {
    return this.#list.take(vcpu, into);
  }

  /** Makes an empty list of names. Throws ENOMEM. */
  createList(): FlushListPtr {
    return this.#kvm.mm.heap.alloc(this.#list.words) as FlushListPtr;
  }
}
