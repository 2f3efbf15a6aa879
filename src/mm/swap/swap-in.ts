import type { Pfn, Vpn } from '../../base/units.ts';
import { frameByte } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import { FAULT_RETRY, GUP_HWPOISON, GUP_NOMEM, GUP_WRITABLE } from '../fault-codes.ts';
import { mkPte, PageFlag, POISON_ENTRY, Pte, Swp, swpOffset, VmFlag } from '../layout.ts';
import { type Memory, type MemoryDeps, NEW_ANON } from '../memory.ts';
import type { PteAt } from '../page-table.ts';
import type { SwapRead } from './swap-backend.ts';
import type { Slot } from './swap-slots.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/**
 * Brings a page back (M-33). The entry is claimed through the swap cache: whoever has the lock of the page
 * that holds the slot decides, because a slot can be freed and handed out again while its number still
 * stands in our hand (mm-figures B.3). Linux: do_swap_page.
 */
export class SwapIn {
  readonly #deps: MemoryDeps;
  readonly #memory: Memory;

  constructor(deps: MemoryDeps, memory: Memory) {
    this.#deps = deps;
    this.#memory = memory;
  }

  /** As Memory.fault, for a swap entry. Requires: mmap for read, nothing below it. */
  fault(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, write: boolean): number {
    const { swap, anonVmas, breaks, pages } = this.#deps;
    const slot = swpOffset(entry);
    if (anonVmas.prepare(vma) === 0) return GUP_NOMEM;
    if (breaks.swapInByPteAlone) return this.#byPteAlone(mm, vma, vpn, pte, entry, write);
    const cached = swap.lookupCache(slot);
    const pfn = cached === 0 ? this.#read(mm, slot) : this.#claim(mm, cached, slot);
    if (pfn === GUP_HWPOISON) this.#lose(mm, pte, entry);
    if (pfn < 0) return pfn;
    const shared = cached !== 0 && (entry & Swp.Exclusive) === 0;
    if (shared && this.#isForeign(pfn, vma, vpn)) return this.#copy(mm, vma, vpn, pte, entry, pfn, write);
    const result = this.#map(mm, vma, vpn, pte, entry, pfn, write);
    pages.unlock(pfn);
    if (result < 0) pages.put(pfn);
    return result;
  }

  /** Locks a page found in the cache. It may have left meanwhile, or never have been read. */
  #claim(mm: Mm, pfn: Pfn, slot: Slot): Pfn | number {
    const { pages, layout } = this.#deps;
    if (!pages.tryLock(pfn)) this.#waitFor(mm, pfn);
    if (layout.page.swap.load(pages.at(pfn)) === slot + 1) return pfn;
    pages.unlock(pfn);
    pages.put(pfn);
    return FAULT_RETRY;
  }

  /** Locks a page that somebody else has: reading it, or about to take it. */
  #waitFor(mm: Mm, pfn: Pfn): void {
    const { pages, psi, layout } = this.#deps;
    const refault = !pages.has(pfn, PageFlag.Uptodate) && pages.has(pfn, PageFlag.Workingset);
    if (refault) psi.enter(layout.mm.memcg.get(mm));
    pages.lock(pfn);
    if (refault) psi.leave(layout.mm.memcg.get(mm));
  }

  /**
   * Pages that KSM merged share their slot, and come back through different VMAs: a page of the cache that is
   * merged, or has its place in another mapping already, can't be mapped here, as the reverse map would not find it.
   * An exclusive entry's page is its own. Requires: the page locked. Linux: ksm_might_need_to_copy.
   */
  #isForeign(pfn: Pfn, vma: Vma, vpn: Vpn): boolean {
    const { layout, pages, breaks } = this.#deps;
    const { page, vma: v, anonVma: a } = layout;
    const p = pages.at(pfn);
    if (breaks.ksmSwapInAnywhere) return false;
    if (pages.has(pfn, PageFlag.Ksm)) return true;
    const mapping = page.mapping.load(p);
    if (mapping === 0) return false;
    const index = v.pgoff.get(vma) + vpn - v.start.get(vma);
    return page.index.get(p) !== index || a.root.get(mapping) !== a.root.get(v.anonVma.load(vma));
  }

  /** Maps a copy of a cached page, whose lock and reference it consumes. */
  #copy(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, cached: Pfn, write: boolean): number {
    const { pages, pageOps, layout, swap, lru, vmstat } = this.#deps;
    // Making room may need the lock.
    pages.unlock(cached);
    const pfn = this.#memory.newPage(mm, 2, NEW_ANON);
    if (pfn < 0) {
      pages.put(cached);
      return GUP_NOMEM;
    }
    pages.lock(cached);
    const held = layout.page.swap.load(pages.at(cached)) === swpOffset(entry) + 1;
    if (held) pageOps.copy(frameByte(pfn), frameByte(cached));
    const mapped = held ? this.#mapCopy(mm, vma, vpn, pte, entry, pfn) : 0;
    pages.unlock(cached);
    swap.putMapped(cached);
    if (mapped === 0) pages.put(pfn);
    else {
      lru.add(pfn);
      vmstat.add('ksm_swpin_copy', 1);
      if ((mapped & Pte.Write) !== 0) return pfn | GUP_WRITABLE;
      if (!write) return pfn;
    }
    pages.put(pfn);
    return FAULT_RETRY;
  }

  /** Requires: the lock of the page that has the slot. The pte, or 0 if the entry is another by now. */
  #mapCopy(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, pfn: Pfn): number {
    const { pageTable, rmap, layout, swap, vmstat } = this.#deps;
    pageTable.lock(pte);
    const same = pageTable.load(pte) === entry;
    const wp = (entry & Swp.UffdWp) !== 0;
    const writable = !wp && (layout.vma.flags.get(vma) & VmFlag.Write) !== 0 ? Pte.Write : 0;
    const fresh = mkPte(pfn, Pte.Young | Pte.Dirty | writable | (wp ? Pte.UffdWp : 0));
    if (same) {
      rmap.addNew(pfn, vma, vpn);
      pageTable.replace(pte, fresh);
      layout.mm.anonPages.add(mm, 1);
      layout.mm.swapEnts.add(mm, -1);
      swap.free(swpOffset(entry));
      vmstat.add('pgfault', 1);
    }
    pageTable.unlock(pte);
    return same ? fresh : 0;
  }

  /** Reads the slot into a new page of the cache. The page comes back locked, with a reference. */
  #read(mm: Mm, slot: Slot): Pfn | number {
    const { pages, swap, lru, vmstat, breaks } = this.#deps;
    const pfn = this.#memory.newPage(mm, 1, 0);
    if (pfn < 0) return GUP_NOMEM;
    pages.lock(pfn);
    const added = swap.addToCache(slot, pfn);
    const read = added === 'ok' && this.#readPage(mm, slot, pfn) === 'ok';
    if (read || breaks.swapErrorReadsOn) {
      pages.set(pfn, PageFlag.Uptodate);
      lru.add(pfn);
      vmstat.add('pgmajfault', 1);
      return pfn;
    }
    if (added === 'ok') swap.removeFromCache(pfn);
    pages.unlock(pfn);
    pages.put(pfn);
    // A page that can't be read is lost, and the access a bus error (O-4).
    return added === 'ok' ? GUP_HWPOISON : FAULT_RETRY;
  }

  /** The content of an entry is lost for good: it says so from now on, and the slot is not asked again (O-4). */
  #lose(mm: Mm, pte: PteAt, entry: number): void {
    const { pageTable, layout, swap, breaks } = this.#deps;
    if (breaks.readErrorRetried) return;
    pageTable.lock(pte);
    const same = pageTable.load(pte) === entry;
    if (same) {
      pageTable.replace(pte, POISON_ENTRY);
      layout.mm.swapEnts.add(mm, -1);
      swap.free(swpOffset(entry));
    }
    pageTable.unlock(pte);
  }

  /** Who waits for a page that should never have gone has lost the time (Linux: swap_read_folio). */
  #readPage(mm: Mm, slot: Slot, pfn: Pfn): SwapRead {
    const { pages, swap, psi, layout } = this.#deps;
    if (!pages.has(pfn, PageFlag.Workingset)) return swap.readPage(slot, pfn);
    psi.enter(layout.mm.memcg.get(mm));
    const result = swap.readPage(slot, pfn);
    psi.leave(layout.mm.memcg.get(mm));
    return result;
  }

  /** Requires: the page locked and the slot's. Consumes the reference unless it answers FAULT_RETRY. */
  #map(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, pfn: Pfn, write: boolean): number {
    const { pageTable, layout, swap, vmstat, breaks } = this.#deps;
    pageTable.lock(pte);
    if (pageTable.load(pte) !== entry) {
      pageTable.unlock(pte);
      return FAULT_RETRY;
    }
    const exclusive = (entry & Swp.Exclusive) !== 0;
    this.#mapPage(mm, vma, vpn, pfn, exclusive);
    // Writable though only read, if that is allowed: the next write then costs no fault.
    const flags = layout.vma.flags.get(vma);
    // V-62: protection comes back with the page.
    const wp = (entry & Swp.UffdWp) !== 0 && (flags & VmFlag.UffdWp) !== 0 && !breaks.swapDropsUffdWp;
    const writable = exclusive && (flags & VmFlag.Write) !== 0 && !wp;
    const bits = Pte.Young | (writable ? Pte.Write : 0) | (writable && write ? Pte.Dirty : 0);
    pageTable.replace(pte, mkPte(pfn, bits | (wp ? Pte.UffdWp : 0)));
    swap.free(swpOffset(entry));
    const alone = !exclusive && write && !wp && this.#isLast(pfn);
    if (alone) pageTable.change(pte, Pte.Write | Pte.Dirty, 0);
    else if ((writable && write) || swap.isTight()) swap.tryToFreeSwap(pfn);
    pageTable.unlock(pte);
    vmstat.add('pgfault', 1);
    if (write && !writable && !alone) return FAULT_RETRY; // and on to copy on write, or to who protects it
    return pfn | (writable || alone ? GUP_WRITABLE : 0);
  }

  /** Requires: the page lock and the ptl. */
  #mapPage(mm: Mm, vma: Vma, vpn: Vpn, pfn: Pfn, exclusive: boolean): void {
    const { pages, rmap, layout } = this.#deps;
    rmap.adopt(pfn, vma, vpn, exclusive);
    pages.get(pfn);
    layout.page.mapcount.add(pages.at(pfn), 1);
    if (exclusive) pages.set(pfn, PageFlag.AnonExclusive);
    layout.mm.anonPages.add(mm, 1);
    layout.mm.swapEnts.add(mm, -1);
  }

  /** A page shared by fork of which we are the last user is ours. Requires: the page lock and the ptl. */
  #isLast(pfn: Pfn): boolean {
    const { pages, swap } = this.#deps;
    if (pages.mapcount(pfn) !== 1 || !swap.tryToFreeSwap(pfn)) return false;
    // The mapping's reference and the fault's.
    if (pages.refcount(pfn) !== 2) return false;
    pages.set(pfn, PageFlag.AnonExclusive);
    return true;
  }

  /** The broken variant: reads the slot into a page of its own and trusts that the pte is the same. */
  #byPteAlone(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, write: boolean): number {
    const { pages, pageTable, swap, layout, lru, y } = this.#deps;
    const cached = swap.lookupCache(swpOffset(entry));
    const pfn = cached === 0 ? this.#memory.newPage(mm, 1, 0) : cached;
    if (pfn < 0) return GUP_NOMEM;
    if (cached === 0) {
      if (swap.readPage(swpOffset(entry), pfn) !== 'ok') pages.set(pfn, PageFlag.Uptodate);
      lru.add(pfn);
    } else pages.lock(pfn);
    y('S.in');
    pageTable.lock(pte);
    const same = pageTable.load(pte) === entry;
    if (same) {
      this.#mapPage(mm, vma, vpn, pfn, true);
      const dirty = cached === 0 || write ? Pte.Dirty : 0;
      const writable = (layout.vma.flags.get(vma) & VmFlag.Write) !== 0 ? Pte.Write : 0;
      pageTable.replace(pte, mkPte(pfn, Pte.Young | dirty | writable));
      swap.free(swpOffset(entry));
    }
    pageTable.unlock(pte);
    if (cached !== 0) pages.unlock(pfn);
    if (!same) pages.put(pfn);
    return same ? pfn | GUP_WRITABLE : FAULT_RETRY;
  }
}
