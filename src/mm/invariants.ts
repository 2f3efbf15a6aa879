import type { Pfn, Vpn } from '../base/units.ts';
import { frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmCore } from './core.ts';
import { checkInodes } from './invariants-shmem.ts';
import { checkKsm } from './ksm/ksm-invariants.ts';
import {
  isSwap,
  PageFlag,
  Pte,
  pmdIsHuge,
  pteIsNone,
  pteIsPresent,
  ptePfn,
  swpOffset,
  Table,
  VmFlag,
  withoutUffdWp,
} from './layout.ts';
import { must } from './must.ts';
import { HUGE_FRAMES } from './page-alloc.ts';
import { hugePte, VPN_MAX } from './page-table.ts';
import type { Slot } from './swap/swap-slots.ts';
import { checkUffds } from './userfaultfd/check.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type AnonVma = Ptr<'anonVma'>;

/** What a walk over everything found, to be compared with what is written down. */
class Census {
  readonly mappings = new Map<Pfn, number>();
  readonly writable = new Map<Pfn, number>();
  readonly swapPtes = new Map<Slot, number>();
  readonly anonVmaRefs = new Map<AnonVma, number>();
  readonly active = new Map<AnonVma, number>();
  readonly charged = new Map<Ptr<'memcg'>, number>();
  readonly onLru = new Set<Pfn>();
  /** Pages that a locked VMA maps. */
  readonly locked = new Set<Pfn>();
  readonly inodeVmas = new Map<Ptr<'inode'>, number>();
  /** Pages in the caches of inodes. */
  cached: ReadonlyMap<Pfn, Ptr<'inode'>> = new Map();
  kernelFrames = 0;
  hugeZeros = 0;
}

const count = <K>(map: Map<K, number>, key: K, by = 1): void => void map.set(key, (map.get(key) ?? 0) + by);

/**
 * Proves the invariants of README.md from scratch, over every table of the arena. The mm must be at rest:
 * no thread inside it, no batch open. For tests.
 */
export function checkInvariants(core: MmCore): void {
  const census = new Census();
  core.lru.drainAll();
  core.mms.forEach(mm => {
    checkMm(core, mm, census);
  });
  const zeros = core.thp.zeroRefs === 0 ? 0 : core.thp.zeroRefs - 1;
  must(zeros === census.hugeZeros, 'M10: references to the huge zero page', zeros, census.hugeZeros);
  const inodes = checkInodes(core, census.inodeVmas);
  census.cached = inodes.cached;
  for (const tree of inodes.trees) count(census.anonVmaRefs, tree);
  checkLru(core, census);
  checkUnevictable(core, census);
  checkPages(core, census);
  checkKsm(core, anonVma => count(census.anonVmaRefs, anonVma));
  checkAnonVmas(core, census);
  checkSwap(core, census);
  checkMemcgs(core, census);
}

function checkMm(core: MmCore, mm: Mm, census: Census): void {
  const m = core.layout.mm;
  must(m.users.load(mm) > 0, 'M9: an mm on the list lives', mm);
  must(core.sync.words[mm + m.mmapLock.at] === 0, 'M9: mmap is free at rest', mm);
  must(m.ranges.load(mm) === 0, 'M9: no range is open at rest', mm);
  must(core.notifiers.intervals.isQuiet(mm), 'M9: no interval is invalidated at rest', mm);
  must((m.wpSeq.load(mm) & 1) === 0, 'M9: wpSeq is even at rest', mm);
  checkVmas(core, mm, census);
  checkUffds(core, mm);
  const found = checkTables(core, mm, census);
  must(found.anon === m.anonPages.load(mm), 'M5: anonPages', found.anon, m.anonPages.load(mm));
  must(found.shmem === m.shmemPages.load(mm), 'M5: shmemPages', found.shmem, m.shmemPages.load(mm));
  must(found.swap === m.swapEnts.load(mm), 'M5: swapEnts', found.swap, m.swapEnts.load(mm));
  must(found.tables === m.nrPtes.load(mm), 'M5: nrPtes', found.tables, m.nrPtes.load(mm));
  census.kernelFrames += 2 + found.tables;
}

function checkVmas(core: MmCore, mm: Mm, census: Census): void {
  const { vma: v, avc: c } = core.layout;
  let previous = 0;
  for (let i = 0; i < core.vmas.count(mm); i++) {
    const vma = core.vmas.at(mm, i);
    const [start, end] = [v.start.get(vma), v.end.get(vma)];
    must(previous <= start && start < end && end <= VPN_MAX, 'M1: ordered, disjoint', start, end);
    must(v.mm.get(vma) === mm, 'M1: a VMA names its mm', start);
    previous = end;
    const own = v.anonVma.load(vma);
    if (own !== 0) count(census.active, own);
    const inode = v.ops.get(vma);
    if (inode !== 0) count(census.inodeVmas, inode);
    if (inode !== 0) must(own === core.layout.inode.tree.get(inode), 'M11: a VMA is in the tree', start);
    let linked = false;
    for (let avc = v.avcs.get(vma); avc !== 0; avc = c.nextSameVma.get(avc)) {
      must(c.vma.get(avc) === vma, 'M7: a chain names its VMA', start);
      count(census.anonVmaRefs, c.anonVma.get(avc));
      linked ||= c.anonVma.get(avc) === own;
    }
    must(linked === (own !== 0), 'M7: a VMA is chained to its anon_vma', start);
  }
}

type Found = { anon: number; shmem: number; swap: number; tables: number };

function checkTables(core: MmCore, mm: Mm, census: Census): Found {
  const found = { anon: 0, shmem: 0, swap: 0, tables: 0 };
  checkTable(core, mm, core.layout.mm.pgd.get(mm), 0, 18, census, found);
  return found;
}

/** One table whose entries cover `1 << shift` pages each. */
function checkTable(
  core: MmCore,
  mm: Mm,
  pfn: Pfn,
  base: Vpn,
  shift: number,
  census: Census,
  found: Found,
): void {
  const { words } = core.sync;
  const table = frameWord(pfn);
  must(core.pages.has(pfn, PageFlag.Table), 'M5: a table is marked as one', pfn);
  must(words[table + Table.lock] === 0, 'M9: a ptl is free at rest', pfn);
  let used = 0;
  let huge = 0;
  for (let i = 0; i < 512; i++) {
    const entry = words[table + i] as number;
    if (pteIsNone(entry)) continue;
    used++;
    const vpn = base + (i << shift);
    if (shift === 0) checkPte(core, mm, vpn, entry, census, found);
    else if (shift === 9 && pmdIsHuge(entry)) {
      checkHuge(core, mm, vpn, entry, census, found);
      huge++;
    } else {
      found.tables++;
      checkTable(core, mm, ptePfn(entry), vpn, shift - 9, census, found);
    }
  }
  must(used === words[table + Table.used], 'M5: entries in use', pfn, used, words[table + Table.used]);
  checkDeposit(core, pfn, huge);
  found.tables += huge;
}

/** A spare table for each huge entry, and no other. */
function checkDeposit(core: MmCore, pfn: Pfn, huge: number): void {
  const { words } = core.sync;
  let kept = 0;
  for (let at = words[frameWord(pfn) + Table.deposit] as Pfn; at !== 0; at = words[frameWord(at)] as Pfn) {
    must(core.pages.has(at, PageFlag.Table), 'M10: what is in deposit is a table', at);
    must(words[frameWord(at) + Table.used] === 0, 'M10: a table in deposit is empty', at);
    kept++;
  }
  must(kept === huge, 'M10: a table in deposit for each huge entry', pfn, kept, huge);
}

/** As 512 ptes, all in one VMA; writable only if all of them may be. */
function checkHuge(core: MmCore, mm: Mm, vpn: Vpn, entry: number, census: Census, found: Found): void {
  const zero = (entry & Pte.Zero) !== 0;
  must(pteIsPresent(entry), 'M10: a huge entry is present', vpn);
  must(zero || ptePfn(entry) % HUGE_FRAMES === 0, 'M10: a huge entry maps an aligned run', vpn);
  const vma = core.vmas.find(mm, vpn);
  must(vma !== 0, 'M2: an entry lies inside a mapping', vpn);
  must(core.layout.vma.end.get(vma) >= vpn + HUGE_FRAMES, 'M10: a VMA ends inside no huge page', vpn);
  if (zero) census.hugeZeros++;
  for (let i = 0; i < HUGE_FRAMES; i++) {
    checkPresent(core, vma, vpn + i, hugePte(entry, vpn + i), census, found);
  }
}

function checkPte(core: MmCore, mm: Mm, vpn: Vpn, entry: number, census: Census, found: Found): void {
  const vma = core.vmas.find(mm, vpn);
  must(vma !== 0, 'M2: an entry lies inside a mapping', vpn);
  if (withoutUffdWp(entry) !== entry) {
    must((core.layout.vma.flags.get(vma) & VmFlag.UffdWp) !== 0, 'M2: protected where nobody asked', vpn);
    const both = pteIsPresent(entry) && (entry & Pte.Write) !== 0;
    must(!both, 'M2: write-protected and writable', vpn);
  }
  if (pteIsPresent(entry)) checkPresent(core, vma, vpn, entry, census, found);
  else if (isSwap(entry)) {
    found.swap++;
    count(census.swapPtes, swpOffset(entry));
  }
}

function checkPresent(core: MmCore, vma: Vma, vpn: Vpn, entry: number, census: Census, found: Found): void {
  const flags = core.layout.vma.flags.get(vma);
  const pfn = ptePfn(entry);
  const writable = (entry & Pte.Write) !== 0;
  must(!writable || (flags & VmFlag.Write) !== 0, 'M2: a writable entry in a VMA that is not', vpn);
  const open = (flags & (VmFlag.Read | VmFlag.Write)) !== 0 || (entry & Pte.ProtNone) !== 0;
  must(open, 'M2: an accessible entry in a VMA that is not', vpn);
  if ((entry & Pte.Zero) !== 0) {
    must(pfn === core.pages.zeroPage && !writable, 'M2: the zero page is read-only', vpn);
    return;
  }
  const shared = core.layout.vma.ops.get(vma) !== 0;
  must(shared === core.pages.has(pfn, PageFlag.Shmem), 'M11: a mapping of an inode maps its pages', vpn);
  if (shared) found.shmem++;
  else found.anon++;
  count(census.mappings, pfn);
  if ((flags & VmFlag.Locked) !== 0) census.locked.add(pfn);
  if (writable && !shared) count(census.writable, pfn);
  must(core.layout.vma.anonVma.load(vma) !== 0, 'M7: a VMA with pages has an anon_vma', vpn);
}

function checkLru(core: MmCore, census: Census): void {
  const { memcg } = core.layout;
  checkLruvec(core, core.lru.lruvecOf(0 as Ptr<'memcg'>), census);
  for (let m = core.memcontrol.first(); m !== 0; m = memcg.next.load(m)) {
    checkLruvec(core, memcg.lru.load(m), census);
  }
}

function checkLruvec(core: MmCore, lruvec: Ptr<'lruvec'>, census: Census): void {
  const { lruvec: l, page } = core.layout;
  for (const active of [true, false]) {
    let pages = 0;
    let previous = 0;
    for (let pfn = (active ? l.activeHead : l.inactiveHead).get(lruvec); pfn !== 0; ) {
      const p = core.pages.at(pfn);
      must(page.prev.get(p) === previous, 'R6: the list is linked both ways', pfn);
      must(core.pages.has(pfn, PageFlag.Lru), 'R6: a page on a list has Lru', pfn);
      must(core.pages.has(pfn, PageFlag.Active) === active, 'R6: the list that Active says', pfn);
      must(core.lru.lruvecOf(page.memcg.load(p)) === lruvec, 'R6: the list of its group', pfn);
      must(!census.onLru.has(pfn), 'R6: once on a list', pfn);
      census.onLru.add(pfn);
      pages++;
      previous = pfn;
      pfn = page.next.get(p);
    }
    must(pages === core.lru.count(lruvec, active), 'R6: the count of a list', pages);
  }
}

/** Mlocked pages that are on the LRU are on neither list, and are counted (C-16). */
function checkUnevictable(core: MmCore, census: Census): void {
  const found = new Map<Ptr<'lruvec'>, number>();
  for (let pfn = core.sync.arena.firstFrame; pfn < core.pageAlloc.bump; pfn++) {
    const unevictable = core.pages.has(pfn, PageFlag.Unevictable);
    const listed = core.pages.has(pfn, PageFlag.Lru);
    must(
      unevictable === (listed && core.pages.has(pfn, PageFlag.Mlocked)),
      'R8: Mlocked is unevictable',
      pfn,
    );
    if (!unevictable) continue;
    must(
      census.locked.has(pfn) || core.pages.mapcount(pfn) === 0,
      'R8: a Mlocked page is locked somewhere',
      pfn,
    );
    must(!census.onLru.has(pfn), 'R8: an unevictable page is on no list', pfn);
    census.onLru.add(pfn);
    count(found, core.lru.lruvecOf(core.layout.page.memcg.load(core.pages.at(pfn))));
  }
  const check = (lruvec: Ptr<'lruvec'>): void =>
    must(core.lru.unevictable(lruvec) === (found.get(lruvec) ?? 0), 'R8: unevictable pages', lruvec);
  check(core.lru.lruvecOf(0 as Ptr<'memcg'>));
  for (let m = core.memcontrol.first(); m !== 0; m = core.layout.memcg.next.load(m))
    check(core.lru.lruvecOf(m));
}

function checkPages(core: MmCore, census: Census): void {
  const free = new Set(core.pageAlloc.freeList());
  const { arena } = core.sync;
  checkRuns(core, free);
  const fresh = arena.firstFrame + arena.frames - core.pageAlloc.bump;
  must(free.size + fresh === core.pageAlloc.freeFrames, 'M6: free frames', free.size + fresh);
  for (let pfn = arena.firstFrame; pfn < core.pageAlloc.bump; pfn++) {
    const isFree = core.pages.refcount(pfn) === 0;
    must(free.has(pfn) === isFree, 'M6: a frame is free or referenced', pfn);
    must(core.pages.has(pfn, PageFlag.Free) === isFree, 'M6: a free frame is marked', pfn);
    if (isFree) must(!census.mappings.has(pfn), 'M3: a free frame is not mapped', pfn);
    else if (pfn !== core.pages.zeroPage) checkPage(core, pfn, census);
  }
}

function checkRuns(core: MmCore, free: ReadonlySet<Pfn>): void {
  const found = new Map<number, number>();
  for (const pfn of free) count(found, pfn - (pfn % HUGE_FRAMES));
  for (const { first, free: counted } of core.pageAlloc.runs()) {
    must((found.get(first) ?? 0) === counted, 'M6: free frames of a run', first, counted);
  }
}

function checkPage(core: MmCore, pfn: Pfn, census: Census): void {
  const { page } = core.layout;
  const p = core.pages.at(pfn);
  const mapped = census.mappings.get(pfn) ?? 0;
  must(core.sync.words[p + page.lock.at] === 0, 'M9: a page lock is free at rest', pfn);
  must(core.pages.mapcount(pfn) === mapped, 'M3: mapcount', pfn, core.pages.mapcount(pfn), mapped);
  const cached = core.pages.has(pfn, PageFlag.SwapCache) ? 1 : 0;
  const ofInode = census.cached.has(pfn) ? 1 : 0;
  must(core.pages.refcount(pfn) >= mapped + cached + ofInode, 'M3: a mapping holds a reference', pfn);
  const isShmem = core.pages.has(pfn, PageFlag.Shmem);
  must(!isShmem || mapped === 0 || ofInode === 1, 'M11: a mapped page of an inode is in its cache', pfn);
  must(cached === 1 || page.swap.load(p) === 0, 'R3: a slot only in the swap cache', pfn);
  const exclusive = core.pages.has(pfn, PageFlag.AnonExclusive);
  must(!exclusive || mapped <= 1, 'M4: exclusive is mapped once', pfn);
  must(!census.writable.has(pfn) || exclusive, 'M4: writable is exclusive', pfn);
  if (mapped + cached > 0 && !isShmem)
    must(census.onLru.has(pfn), 'M8: an anonymous page is on the LRU', pfn);
  const memcg = page.memcg.load(p);
  if (memcg !== 0) count(census.charged, memcg);
  const mapping = page.mapping.load(p);
  if (mapping !== 0 && !core.pages.has(pfn, PageFlag.Ksm)) count(census.anonVmaRefs, mapping);
  must(mapped === 0 || mapping !== 0, 'M7: a mapped page names an anon_vma', pfn);
  if (mapped > 0) must(core.rmap.countMappings(pfn) === mapped, 'M7: the reverse map finds all', pfn);
}

/** Children are known by their own count; it is on the root's. */
function checkAnonVmas(core: MmCore, census: Census): void {
  const a = core.layout.anonVma;
  const own = new Map(census.anonVmaRefs);
  for (const anonVma of own.keys()) {
    const root = a.root.get(anonVma);
    if (root !== anonVma) count(census.anonVmaRefs, root);
  }
  for (const [anonVma, refs] of census.anonVmaRefs) {
    must(a.refcount.load(anonVma) === refs, 'M7: refcount', anonVma, a.refcount.load(anonVma), refs);
    must(core.sync.words[anonVma + a.lock.at] === 0, 'M9: an anon_vma lock is free at rest', anonVma);
    const active = census.active.get(anonVma) ?? 0;
    must(a.activeVmas.get(anonVma) === active, 'M7: activeVmas', anonVma, a.activeVmas.get(anonVma), active);
  }
  must(core.slabs.anonVma.used === census.anonVmaRefs.size, 'M7: no anon_vma leaks', core.slabs.anonVma.used);
}

function checkSwap(core: MmCore, census: Census): void {
  const { page } = core.layout;
  const cached = new Map<Slot, Pfn>();
  const { arena } = core.sync;
  for (let pfn = arena.firstFrame; pfn < core.pageAlloc.bump; pfn++) {
    if (!core.pages.has(pfn, PageFlag.SwapCache)) continue;
    const slot = page.swap.load(core.pages.at(pfn)) - 1;
    must(slot >= 0 && !cached.has(slot), 'R3: one frame holds a slot', slot);
    cached.set(slot, pfn);
  }
  const slots = new Set([...census.swapPtes.keys(), ...cached.keys()]);
  for (const slot of slots) {
    const wanted = (census.swapPtes.get(slot) ?? 0) + (cached.has(slot) ? 1 : 0);
    const written = core.swap.slots.references(slot);
    must(written === wanted, 'R2: references of a slot', slot, written, wanted);
  }
  must(core.swap.slots.used === slots.size, 'R2: slots in use', core.swap.slots.used, slots.size);
  must(core.swap.slots.cached === cached.size, 'R3: pages in the swap cache', cached.size);
}

function checkMemcgs(core: MmCore, census: Census): void {
  const { usage, max, high, limit, next } = core.layout.memcg;
  for (let m = core.memcontrol.first(); m !== 0; m = next.load(m)) {
    const charged = census.charged.get(m) ?? 0;
    must(usage.load(m) === charged, 'M8: usage is what is charged', usage.load(m), charged);
    must(core.psi.tasks(m).stalled === 0, 'M9: nobody is stalled at rest', m);
    if (!core.memcontrol.isLive(m)) continue;
    must(usage.load(m) <= max.load(m), 'R1: usage within the limit');
    must(limit.load(m) === Math.min(max.load(m), high.load(m)), 'R1: limit is the lower of max and high');
  }
}
