import { PAGE_SIZE, type Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmCore } from './core.ts';
import {
  isSwap,
  PageFlag,
  POISON_ENTRY,
  Pte,
  pmdIsHuge,
  pteIsPresent,
  ptePfn,
  Swp,
  swpOffset,
  VmFlag,
  WP_MARKER,
} from './layout.ts';
import { vmFlagCodes } from './vm-flags.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/**
 * An address space as text: a line for each mapping, and below it one for each entry that is not none, or
 * for a run of them that read the same.
 *
 *   0x10000000-0x10004000 rw- anon
 *     0x10000000 page shared×2 dirty
 *     0x10001000 swap
 *     0x10002000 zero ×2
 *     0x10200000 huge page writable dirty ×512
 */
export function describe(core: MmCore, mm: Mm): string {
  const lines: string[] = [];
  for (let i = 0; i < core.vmas.count(mm); i++) {
    const vma = core.vmas.at(mm, i);
    lines.push(header(core, vma), ...entries(core, mm, vma));
  }
  return lines.join('\n');
}

/** Said by the letters before, or by none: they are true of every mapping, or of no interest. */
const COMMON = ['rd', 'wr', 'ex', 'mr', 'mw', 'me', 'sh', 'ms', 'ac'];

const UFFD_MODES = ['um', 'uw', 'ui'];

const hex = (vpn: Vpn): string => `0x${(vpn * PAGE_SIZE).toString(16)}`;

function header(core: MmCore, vma: Vma): string {
  const v = core.layout.vma;
  const { lo, hi } = core.vmas.flags(vma);
  const right = (flag: number, letter: string): string => ((lo & flag) !== 0 ? letter : '-');
  const rights = right(VmFlag.Read, 'r') + right(VmFlag.Write, 'w') + right(VmFlag.Exec, 'x');
  const marks = vmFlagCodes(lo, hi).filter(code => !COMMON.includes(code));
  // Registration of 2014 sets no flag (F-22).
  if (v.uffd.get(vma) !== 0 && !marks.some(code => UFFD_MODES.includes(code))) marks.push('registered');
  return `${hex(v.start.get(vma))}-${hex(v.end.get(vma))} ${[rights, v.ops.get(vma) === 0 ? 'anon' : 'shmem', ...marks].join(' ')}`;
}

function entries(core: MmCore, mm: Mm, vma: Vma): string[] {
  const v = core.layout.vma;
  const lines: { at: Vpn; text: string; count: number }[] = [];
  for (let vpn = v.start.get(vma); vpn < v.end.get(vma); vpn++) {
    const entry = core.pageTable.entryOf(mm, vpn);
    if (entry === 0) continue;
    const text = entryText(core, entry);
    const last = lines.at(-1);
    if (last !== undefined && last.text === text && last.at + last.count === vpn) last.count++;
    else lines.push({ at: vpn, text, count: 1 });
  }
  return lines.map(({ at, text, count }) => `  ${hex(at)} ${text}${count > 1 ? ` ×${count}` : ''}`);
}

function special(entry: number): string {
  if (entry === WP_MARKER) return 'hole wp';
  return entry === POISON_ENTRY ? 'poison' : 'special';
}

function entryText(core: MmCore, entry: number): string {
  if (isSwap(entry)) {
    const shared = core.swap.count(swpOffset(entry));
    return `swap${shared > 1 ? ` shared×${shared}` : ''}${(entry & Swp.Exclusive) !== 0 ? ' exclusive' : ''}${(entry & Swp.UffdWp) !== 0 ? ' wp' : ''}`;
  }
  if (!pteIsPresent(entry)) return special(entry);
  const huge = pmdIsHuge(entry) ? 'huge ' : '';
  if ((entry & Pte.Zero) !== 0) return `${huge}zero${(entry & Pte.UffdWp) !== 0 ? ' wp' : ''}`;
  const pfn = ptePfn(entry);
  const shared = core.pages.mapcount(pfn);
  const words = [
    'page',
    core.pages.has(pfn, PageFlag.Ksm) ? 'ksm' : '',
    shared > 1 ? `shared×${shared}` : '',
    core.pages.has(pfn, PageFlag.SwapCache) ? 'cached' : '',
    (entry & Pte.ProtNone) !== 0 ? 'none' : '',
    (entry & Pte.Write) !== 0 ? 'writable' : '',
    (entry & Pte.UffdWp) !== 0 ? 'wp' : '',
    (entry & Pte.Dirty) !== 0 || core.pages.has(pfn, PageFlag.Dirty) ? 'dirty' : '',
    core.pages.has(pfn, PageFlag.LazyFree) ? 'lazyfree' : '',
  ];
  return huge + words.filter(word => word !== '').join(' ');
}
