import { Mode, Request } from '../cpu/interface.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';

type Vm = Ptr<'vm'>;
type Vcpu = Ptr<'vcpu'>;

/** Asking vCPUs to do something at their next stop-point, and waiting until they have (J-7). */
export class Requests {
  readonly #kvm: Kvm;

  constructor(kvm: Kvm) {
    this.#kvm = kvm;
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

  /** Returns when no vCPU can make an access through a translation it cached before the call (J-7). */
  flushRemoteTlbs(vm: Vm): void {
    this.#kvm.layout.vm.remoteTlbFlush.add(vm, 1);
    this.makeAll(vm, Request.FlushTlb);
    if (this.#kvm.breaks.flushWithoutAck) return;
    const count = this.#kvm.layout.vm.vcpuCount.load(vm);
    for (let i = 0; i < count; i++) this.#awaitFlush(this.vcpu(vm, i));
  }

  /**
   * Waits until the vCPU has left guest mode or cleared the bit. A vCPU in its fault path is outside, so
   * two vCPUs that zap each other's pages cannot deadlock.
   */
  #awaitFlush(vcpu: Vcpu): void {
    const { words, sync } = this.#kvm;
    const f = this.#kvm.vcpuFields;
    for (let spins = 0; ; spins++) {
      if (Atomics.load(words, vcpu + f.mode) === Mode.Outside) return;
      const requests = Atomics.load(words, vcpu + f.requests);
      if ((requests & Request.FlushTlb) === 0) return;
      if (spins > sync.waiter.spins(2000)) sync.waiter.wait(vcpu + f.requests, requests, 0.2);
    }
  }
}
