import { assert } from '../base/assert.ts';
import type { Pfn } from '../base/units.ts';
import type { Kvm } from '../kvm/index.ts';
import { Protocol, sptePfn } from '../kvm/layout.ts';
import type { MmCore } from '../mm/index.ts';
import { PageFlag } from '../mm/layout.ts';
import type { Ptr } from '../sync/struct.ts';

/**
 * OR-4: every reference to a page has an owner: a pte, the swap cache, the cache of its inode, or a leaf of a VM
 * whose leaves pin. Call at rest.
 */
export function checkReferences(mm: MmCore, kvm: Kvm, vms: readonly Ptr<'vm'>[]): void {
  const pins = countPins(kvm, vms);
  const { arena } = mm.sync;
  const { page } = mm.layout;
  for (let pfn = arena.firstFrame; pfn < arena.firstFrame + arena.frames; pfn++) {
    const p = mm.pages.at(pfn);
    const mapped = page.mapcount.load(p);
    if (page.mapping.load(p) === 0 && mapped === 0) continue;
    const cached = mm.pages.has(pfn, PageFlag.SwapCache) ? 1 : 0;
    const ofInode = page.mapping.load(p) !== 0 && mm.pages.has(pfn, PageFlag.Shmem) ? 1 : 0;
    const owned = mapped + cached + ofInode + (pins.get(pfn) ?? 0);
    const held = page.refcount.load(p);
    assert(held <= owned, 'OR-4: a page has a reference that nobody owns');
    assert(held >= owned, 'OR-4: an owner of a page has no reference');
  }
}

/** References that leaves hold (K-8). */
function countPins(kvm: Kvm, vms: readonly Ptr<'vm'>[]): Map<Pfn, number> {
  const pins = new Map<Pfn, number>();
  const { vm: v, slot, slots } = kvm.layout;
  for (const vm of vms) {
    if (v.protocol.get(vm) !== Protocol.SeqlockPin) continue;
    const set = kvm.memslots.active(vm);
    for (let i = 0; i < slots.count.get(set); i++) {
      const s = kvm.memslots.at(set, i);
      for (let gfn = slot.gfn.get(s); gfn < slot.gfn.get(s) + slot.npages.get(s); gfn++) {
        const head = kvm.rmap.head(s, gfn, 0);
        for (let n = 0, leaf = kvm.rmap.nth(head, 0); leaf !== 0; leaf = kvm.rmap.nth(head, ++n)) {
          const pfn = sptePfn(kvm.words[leaf] as number);
          pins.set(pfn, (pins.get(pfn) ?? 0) + 1);
        }
      }
    }
  }
  return pins;
}
