import { PAGE_SIZE } from '../base/units.ts';
import type { MmCore } from '../mm/index.ts';
import { VmFlag } from '../mm/layout.ts';
import { vmFlagCodes } from '../mm/vm-flags.ts';
import type { Ptr } from '../sync/struct.ts';
import { kib, kibOf } from './format.ts';
import { gather, MappingStat, pssKib } from './mapping-stat.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

// Text of /proc/PID/smaps and smaps_rollup, byte for byte as Linux 6.12 prints it. Linux: fs/proc/task_mmu.c.

/** Names start in this column. */
const NAME_AT = 73;

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
const address = (vpn: number): string => hex(vpn * PAGE_SIZE, 8);

/** What an address space maps and what of it is in memory, mapping by mapping. */
export function smaps(core: MmCore, mm: Mm): string {
  return withMmapLock(core, mm, () => {
    let text = '';
    for (let i = 0; i < core.vmas.count(mm); i++) text += oneMapping(core, mm, core.vmas.at(mm, i));
    return text;
  });
}

/** The sums over all mappings. Empty when there is none. */
export function smapsRollup(core: MmCore, mm: Mm): string {
  return withMmapLock(core, mm, () => {
    const count = core.vmas.count(mm);
    if (count === 0) return '';
    const stat = new MappingStat();
    for (let i = 0; i < count; i++) gather(core, mm, core.vmas.at(mm, i), stat);
    const { start, end } = core.layout.vma;
    const from = start.get(core.vmas.at(mm, 0));
    const to = end.get(core.vmas.at(mm, count - 1));
    const head = `${address(from)}-${address(to)} ---p 00000000 00:00 0 `.padEnd(NAME_AT);
    return `${head}[rollup]\n${figures(stat, true)}`;
  });
}

function withMmapLock(core: MmCore, mm: Mm, work: () => string): string {
  const lock = mm + core.layout.mm.mmapLock.at;
  core.sync.readLock('mmap', lock);
  try {
    return core.layout.mm.users.load(mm) === 0 ? '' : work();
  } finally {
    core.sync.readUnlock('mmap', lock);
  }
}

function oneMapping(core: MmCore, mm: Mm, vma: Vma): string {
  const { start, end } = core.layout.vma;
  const stat = new MappingStat();
  gather(core, mm, vma, stat);
  const { lo, hi } = core.vmas.flags(vma);
  return (
    header(core, vma) +
    kibOf('Size', (end.get(vma) - start.get(vma)) * PAGE_SIZE) +
    kib('KernelPageSize', 4) +
    kib('MMUPageSize', 4) +
    figures(stat, false) +
    `${'THPeligible:'.padEnd(16)}${String(thpEligible(core, vma)).padStart(8)}\n` +
    `VmFlags: ${vmFlagCodes(lo, core.breaks.smapsLowWord ? 0 : hi)
      .map(code => `${code} `)
      .join('')}\n`
  );
}

/** Linux: show_vma_header_prefix, and the name after it. */
function header(core: MmCore, vma: Vma): string {
  const { start, end, flags, pgoff } = core.layout.vma;
  const lo = flags.get(vma);
  const right = (flag: number, letter: string): string => ((lo & flag) !== 0 ? letter : '-');
  const rights = `${right(VmFlag.Read, 'r')}${right(VmFlag.Write, 'w')}${right(VmFlag.Exec, 'x')}`;
  const shared = (lo & VmFlag.MayShare) !== 0 ? 's' : 'p';
  const range = `${address(start.get(vma))}-${address(end.get(vma))} ${rights}${shared}`;
  const inode = core.layout.vma.ops.get(vma);
  if (inode === 0) return `${range} 00000000 00:00 0 \n`;
  const offset = hex(pgoff.get(vma) * PAGE_SIZE, 8);
  const number = core.layout.inode.number.get(inode);
  return `${`${range} ${offset} 00:01 ${number} `.padEnd(NAME_AT)}/dev/zero (deleted)\n`;
}

/** Linux: __show_smap. */
function figures(s: MappingStat, rollup: boolean): string {
  return (
    kibOf('Rss', s.rss) +
    kib('Pss', pssKib(s.pss)) +
    kib('Pss_Dirty', pssKib(s.pssDirty)) +
    (rollup ? kinds(s) : '') +
    kibOf('Shared_Clean', s.sharedClean) +
    kibOf('Shared_Dirty', s.sharedDirty) +
    kibOf('Private_Clean', s.privateClean) +
    kibOf('Private_Dirty', s.privateDirty) +
    kibOf('Referenced', s.referenced) +
    kibOf('Anonymous', s.anonymous) +
    kibOf('KSM', s.ksm) +
    kibOf('LazyFree', s.lazyFree) +
    kibOf('AnonHugePages', s.anonHuge) +
    kib('ShmemPmdMapped', 0) +
    kib('FilePmdMapped', 0) +
    kib('Shared_Hugetlb', 0) +
    kib('Private_Hugetlb', 0) +
    kibOf('Swap', s.swap) +
    kib('SwapPss', pssKib(s.swapPss)) +
    kib('Locked', pssKib(s.pssLocked))
  );
}

const kinds = (s: MappingStat): string =>
  kib('Pss_Anon', pssKib(s.pssAnon)) + kib('Pss_File', 0) + kib('Pss_Shmem', pssKib(s.pssShmem));

/** 1 if a fault here may be huge: by the Host's setting, over at least one aligned 2 MiB (H-1). */
function thpEligible(core: MmCore, vma: Vma): number {
  const { start, end, flags, ops } = core.layout.vma;
  const mode = core.thp.enabled;
  const { HugePage, NoHugePage } = VmFlag;
  const asked = (flags.get(vma) & (HugePage | NoHugePage)) === HugePage;
  const allowed = mode === 'always' ? (flags.get(vma) & NoHugePage) === 0 : mode === 'madvise' && asked;
  const fits = Math.ceil(start.get(vma) / 512) * 512 + 512 <= end.get(vma);
  return allowed && fits && ops.get(vma) === 0 ? 1 : 0;
}
