import { AssertionError } from '../base/assert.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { HUGE_GFNS, Spte, spteFrame } from './layout.ts';
import { nextArea } from './mmu.ts';

/** What the primary maps at a page: the pfn and whether it is writable; -1 for nothing present. */
export type PrimaryLookup = (vpn: number) => { pfn: number; writable: boolean; huge?: boolean } | undefined;

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
  const first = s.gfn.get(slot);
  const last = first + s.npages.get(slot);
  let leaves = 0;
  for (let gfn = first; gfn < last; gfn++) {
    leaves += checkHead(kvm, slot, gfn, 0, primary);
    const direct = kvm.mmu.walk(vm, s.space.get(slot), gfn);
    const entry = direct === 0 ? 0 : (kvm.words[direct] as number);
    const head = kvm.rmap.head(slot, gfn, (entry & Spte.Huge) === 0 ? 0 : 1);
    const present = (entry & Spte.Present) !== 0;
    if (present !== (kvm.rmap.first(head) !== 0)) fail('V2: a leaf is present but not in the reverse map');
  }
  for (let gfn = first; gfn < last; gfn = nextArea(gfn)) leaves += checkHead(kvm, slot, gfn, 1, primary);
  return leaves;
}

/** The leaves of one head of the reverse map. Returns how many. */
function checkHead(kvm: Kvm, slot: Ptr<'slot'>, gfn: number, level: number, primary: PrimaryLookup): number {
  const { slot: s } = kvm.layout;
  const pages = level === 0 ? 1 : HUGE_GFNS;
  const head = kvm.rmap.head(slot, gfn, level);
  let n = 0;
  for (let leaf = kvm.rmap.nth(head, 0); leaf !== 0; leaf = kvm.rmap.nth(head, ++n)) {
    const base = kvm.mmu.gfnOf(leaf);
    const inside = base >= s.gfn.get(slot) && base + pages <= s.gfn.get(slot) + s.npages.get(slot);
    if (base !== gfn - (gfn % pages) || !inside) fail('V2: a reverse map names a leaf of another gfn');
    const entry = kvm.words[leaf] as number;
    if (((entry & Spte.Huge) !== 0) !== (level === 1)) fail('V2: a leaf hangs from a head of another level');
    for (let i = 0; i < pages; i++)
      checkLeaf(entry, spteFrame(entry, base + i), primary(kvm.memslots.vpnOf(slot, base + i)));
  }
  return n;
}

function checkLeaf(entry: number, pfn: number, mapped: ReturnType<PrimaryLookup>): void {
  if ((entry & Spte.Present) === 0) fail('V2: the reverse map names a leaf that is not present');
  if (mapped === undefined) fail('V1: a leaf outlives its primary entry');
  if (pfn !== mapped.pfn) fail('V1: a leaf maps another frame than the primary');
  if ((entry & Spte.Write) !== 0 && !mapped.writable) fail('V1: a leaf is writable, the primary is not');
  if ((entry & Spte.Huge) !== 0 && mapped.huge !== true)
    fail('V1: a leaf maps 2 MiB where the primary does not (K-4)');
}
