import { AssertionError } from '../base/assert.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { Spte, sptePfn } from './layout.ts';

/** What the primary maps at a page: the pfn and whether it is writable; -1 for nothing present. */
export type PrimaryLookup = (vpn: number) => { pfn: number; writable: boolean } | undefined;

function fail(message: string): never {
  throw new AssertionError(message);
}

/** Proves V1, V2 and V5 from scratch. Call at rest: no thread inside the core. */
export function checkVm(kvm: Kvm, vm: Ptr<'vm'>, primary: PrimaryLookup): void {
  const { vm: v, slots } = kvm.layout;
  if (v.inProgress.load(vm) !== 0) fail(`V5: in_progress is ${v.inProgress.load(vm)}`);
  if (v.mnActive.load(vm) !== 0) fail(`V5: mn_active_invalidate_count is ${v.mnActive.load(vm)}`);
  if ((v.invSeq.load(vm) & 1) !== 0) fail('V5: the invalidate sequence is odd');
  const set = kvm.memslots.active(vm);
  let leaves = 0;
  for (let i = 0; i < slots.count.get(set); i++)
    leaves += checkSlot(kvm, vm, kvm.memslots.at(set, i), primary);
  const counted = v.pfFixed.load(vm) - v.mmuShadowZapped.load(vm);
  if (leaves !== counted) fail(`V2: ${leaves} leaves in reverse maps, ${counted} counted`);
}

function checkSlot(kvm: Kvm, vm: Ptr<'vm'>, slot: Ptr<'slot'>, primary: PrimaryLookup): number {
  const { slot: s } = kvm.layout;
  let leaves = 0;
  for (let i = 0; i < s.npages.get(slot); i++) {
    const gfn = s.gfn.get(slot) + i;
    const head = kvm.rmap.head(slot, gfn, 0);
    for (let n = 0, leaf = kvm.rmap.nth(head, 0); leaf !== 0; leaf = kvm.rmap.nth(head, ++n)) {
      leaves++;
      if (kvm.mmu.gfnOf(leaf) !== gfn) fail('V2: a reverse map names a leaf of another gfn');
      checkLeaf(kvm.words[leaf] as number, primary(kvm.memslots.vpnOf(slot, gfn)));
    }
    const direct = kvm.mmu.walk(vm, s.space.get(slot), gfn);
    const present = direct !== 0 && ((kvm.words[direct] as number) & Spte.Present) !== 0;
    if (present !== (kvm.rmap.first(head) !== 0)) fail('V2: a leaf is present but not in the reverse map');
  }
  return leaves;
}

function checkLeaf(entry: number, mapped: ReturnType<PrimaryLookup>): void {
  if ((entry & Spte.Present) === 0) fail('V2: the reverse map names a leaf that is not present');
  if (mapped === undefined) fail('V1: a leaf outlives its primary entry');
  if (sptePfn(entry) !== mapped.pfn) fail('V1: a leaf maps another frame than the primary');
  if ((entry & Spte.Write) !== 0 && !mapped.writable) fail('V1: a leaf is writable, the primary is not');
}
