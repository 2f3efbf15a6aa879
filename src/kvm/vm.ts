import { Errno } from '../base/errno.ts';
import { Request } from '../cpu/interface.ts';
import type { MmuNotifierOps } from '../mm/mmu-notifier-ops.ts';
import { type Arena, Root } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { MAX_VCPUS, PREFETCH_MAX, Protocol } from './layout.ts';

type Vm = Ptr<'vm'>;
type Mm = Ptr<'mm'>;

/** What the mm offers to subscribers; MmuNotifiers satisfies it. */
export type NotifierRegistry = {
  /** Makes the implementation known on this thread; the same number on every thread. */
  registerOps(ops: MmuNotifierOps): number;
  register(mm: Mm, ops: number, subscriber: number): number;
  unregister(notifier: number): void;
};

export type VmOptions = {
  mm: Mm;
  protocol?: (typeof Protocol)[keyof typeof Protocol];
  /** The decode cache that its vCPUs share, or 0. */
  code?: number;
  /** Ages by unmapping, as where the hardware sets no accessed bit (K-13). */
  noAccessed?: boolean;
  /** Guest frames, a power of two up to 512, that a fault maps together if the mm has them; off by default. */
  prefetch?: number;
};

/** Making and unmaking VMs. Everything the notifier reads is ready before it is registered (K-2, B-4). */
export class Vms {
  readonly #kvm: Kvm;
  readonly #registry: NotifierRegistry;
  readonly #modernOps: number;
  readonly #seqlockOps: number;

  constructor(kvm: Kvm, registry: NotifierRegistry) {
    this.#kvm = kvm;
    this.#registry = registry;
    this.#modernOps = registry.registerOps(kvm.modern);
    this.#seqlockOps = registry.registerOps(kvm.seqlock);
  }

  /** Throws ENOMEM, with nothing left behind. */
  create(options: VmOptions): Vm {
    const { heap } = this.#kvm.mm;
    const { vm: v, slots } = this.#kvm.layout;
    const vm = heap.alloc(v.words) as Vm;
    v.mm.set(vm, options.mm);
    v.protocol.set(vm, options.protocol ?? Protocol.Modern);
    v.code.set(vm, options.code ?? 0);
    v.noAccessed.set(vm, options.noAccessed ? 1 : 0);
    v.prefetch.set(vm, Math.min(options.prefetch ?? 0, PREFETCH_MAX));
    try {
      v.slots.store(vm, heap.alloc(slots.words) as Ptr<'slots'>);
      v.flushList.set(vm, this.#kvm.requests.createList());
      if (!this.#kvm.mmu.createRoots(vm))
        throw new Errno('ENOMEM', 'createVm', 'no frame for the root tables');
      const ops = v.protocol.get(vm) === Protocol.SeqlockPin ? this.#seqlockOps : this.#modernOps;
      v.notifier.set(vm, this.#registry.register(options.mm, ops, vm));
    } catch (error) {
      this.#free(vm);
      throw error;
    }
    this.#locked(arena => {
      v.next.set(vm, arena.root(Root.vmList) as Vm);
      arena.setRoot(Root.vmList, vm);
    });
    return vm;
  }

  /** Ties a vCPU record to the VM; it takes part in flushes from here on. */
  addVcpu(vm: Vm, vcpu: Ptr<'vcpu'>): void {
    const { vm: v } = this.#kvm.layout;
    const index = v.vcpuCount.load(vm);
    if (index === MAX_VCPUS) throw new Errno('EINVAL', 'createVcpu', `a VM has at most ${MAX_VCPUS}`);
    this.#kvm.requests.join(vm, vcpu);
    Atomics.store(this.#kvm.words, vm + v.vcpus.at + index, vcpu);
    v.vcpuCount.add(vm, 1);
  }

  /**
   * Stops its vCPUs for good, waits until none is inside `run`, and gives everything back (T-LIFE-09). None may
   * be inside on this thread; whoever pins the guest's memory for devices has stopped.
   */
  destroy(vm: Vm): void {
    const { vm: v } = this.#kvm.layout;
    this.#kvm.requests.makeAll(vm, Request.Stop);
    if (!this.#kvm.breaks.destroyWithoutWait) this.#kvm.requests.awaitStopped(vm);
    this.#registry.unregister(v.notifier.get(vm));
    this.#kvm.releaseMm(vm);
    this.#unlink(vm);
    this.#free(vm);
  }

  #unlink(vm: Vm): void {
    const { vm: v } = this.#kvm.layout;
    this.#locked(arena => {
      const next = v.next.get(vm);
      const head = arena.root(Root.vmList) as Vm;
      if (head === vm) arena.setRoot(Root.vmList, next);
      for (let at = head; at !== 0; at = v.next.get(at)) if (v.next.get(at) === vm) v.next.set(at, next);
    });
  }

  /** Calls `work` for every VM, none of which goes meanwhile; it may not make or unmake one. */
  forEach(work: (vm: Vm) => void): void {
    const { next } = this.#kvm.layout.vm;
    this.#locked(arena => {
      for (let vm = arena.root(Root.vmList) as Vm; vm !== 0; vm = next.get(vm)) work(vm);
    });
  }

  #locked(work: (arena: Arena) => void): void {
    const { sync } = this.#kvm;
    const lock = sync.arena.rootAt(Root.vmListLock);
    sync.lock('vm', lock);
    work(sync.arena);
    sync.unlock('vm', lock);
  }

  #free(vm: Vm): void {
    const { heap } = this.#kvm.mm;
    const { vm: v, slot, slots } = this.#kvm.layout;
    const set = v.slots.load(vm);
    const count = set === 0 ? 0 : slots.count.get(set);
    for (let i = 0; i < count; i++) {
      const s = this.#kvm.memslots.at(set, i);
      heap.free(slot.rmap.get(s));
      heap.free(slot.rmapHuge.get(s));
      heap.free(s);
    }
    if (set !== 0) heap.free(set);
    if (v.flushList.get(vm) !== 0) heap.free(v.flushList.get(vm));
    this.#kvm.mmu.destroy(vm);
    heap.free(vm);
  }
}
