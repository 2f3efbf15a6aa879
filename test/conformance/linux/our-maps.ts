import { PAGE_SIZE } from '../../../src/base/units.ts';
import type { MmCore } from '../../../src/mm/core.ts';
import { isSwap, Pte, pteIsPresent, VmFlag, VmFlagHigh } from '../../../src/mm/layout.ts';
import type { Ptr } from '../../../src/sync/struct.ts';
import { WINDOW, WINDOW_BYTES } from './script.ts';

type Vma = Ptr<'vma'>;

/** smaps' letters in the order of the bits. */
const LETTERS: readonly (readonly [number, string])[] = [
  [VmFlag.Read, 'rd'],
  [VmFlag.Write, 'wr'],
  [VmFlag.Exec, 'ex'],
  [VmFlag.Shared, 'sh'],
  [VmFlag.MayRead, 'mr'],
  [VmFlag.MayWrite, 'mw'],
  [VmFlag.MayExec, 'me'],
  [VmFlag.UffdMissing, 'um'],
  [VmFlag.UffdWp, 'uw'],
  [VmFlag.Locked, 'lo'],
  [VmFlag.DontCopy, 'dc'],
  [VmFlag.Account, 'ac'],
  [VmFlag.NoReserve, 'nr'],
  [VmFlag.DontDump, 'dd'],
  [VmFlag.HugePage, 'hg'],
  [VmFlag.NoHugePage, 'nh'],
  [VmFlag.Mergeable, 'mg'],
];

/** What driver.c tells of /proc/self/smaps. */
export function mapsLines(core: MmCore, mm: Ptr<'mm'>): string {
  const { vmas, layout } = core;
  let text = '';
  for (let i = 0; i < vmas.count(mm); i++) {
    const vma = vmas.at(mm, i);
    const start = layout.vma.start.get(vma) * PAGE_SIZE - WINDOW;
    const end = layout.vma.end.get(vma) * PAGE_SIZE - WINDOW;
    if (start < 0 || start >= WINDOW_BYTES) continue;
    const { rss, swap } = count(core, mm, vma);
    const head = `${start.toString(16)}-${end.toString(16)} ${rights(vmas.flags(vma).lo)}`;
    const sizes = `Rss=${rss * 4} Anonymous=${rss * 4} AnonHugePages=0 Swap=${swap * 4}`;
    text += ` [${head} ${sizes} ${letters(vmas.flags(vma))}]`;
  }
  return text;
}

const rights = (lo: number): string =>
  `${(lo & VmFlag.Read) !== 0 ? 'r' : '-'}${(lo & VmFlag.Write) !== 0 ? 'w' : '-'}${(lo & VmFlag.Exec) !== 0 ? 'x' : '-'}`;

function letters({ lo, hi }: { lo: number; hi: number }): string {
  const low = LETTERS.filter(([flag]) => (lo & flag) !== 0).map(([, letter]) => letter);
  return [...low, ...((hi & VmFlagHigh.UffdMinor) !== 0 ? ['ui'] : [])].join(' ');
}

function count(core: MmCore, mm: Ptr<'mm'>, vma: Vma): { rss: number; swap: number } {
  const { layout, pageTable } = core;
  let rss = 0;
  let swap = 0;
  for (let vpn = layout.vma.start.get(vma); vpn < layout.vma.end.get(vma); vpn++) {
    const pte = pageTable.walk(mm, vpn);
    if (pte === 0) continue;
    const entry = pageTable.load(pte);
    if (pteIsPresent(entry) && (entry & Pte.Zero) === 0) rss++;
    if (isSwap(entry)) swap++;
  }
  return { rss, swap };
}
