import type { Pfn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { Protocol, sptePfn } from './layout.ts';

/**
 * Page references that seed08 leaves gave up in one hold of mmu_lock. They are dropped only after the
 * flush (K-8), so that a frame can't be reused while a vCPU may still reach it. Per thread.
 */
export class Pins {
  readonly #kvm: Kvm;
  readonly #values: number[] = [];
  readonly remember: (value: number) => void;

  constructor(kvm: Kvm) {
    this.#kvm = kvm;
    this.remember = value => {
      this.#values.push(value);
    };
  }

  begin(): void {
    this.#values.length = 0;
  }

  /** Call after the flush and outside mmu_lock. A modern VM's leaves hold nothing. */
  release(vm: Ptr<'vm'>): void {
    if (this.#kvm.layout.vm.protocol.get(vm) !== Protocol.SeqlockPin) return;
    for (const value of this.#values) this.#kvm.mm.pages.put(sptePfn(value) as Pfn);
    this.#values.length = 0;
  }
}
