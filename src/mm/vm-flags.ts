import { VmFlag, VmFlagHigh } from './layout.ts';

// The one table from bits of vm_flags to the codes of smaps (M-3, U-7), in the order of the bits, which is
// Linux's. A bit of the high word has `high`. Linux: show_smap_vma_flags.

type Code = { readonly code: string; readonly bit: number; readonly high?: boolean };

export const VM_FLAG_CODES: readonly Code[] = [
  { code: 'rd', bit: VmFlag.Read },
  { code: 'wr', bit: VmFlag.Write },
  { code: 'ex', bit: VmFlag.Exec },
  { code: 'sh', bit: VmFlag.Shared },
  { code: 'mr', bit: VmFlag.MayRead },
  { code: 'mw', bit: VmFlag.MayWrite },
  { code: 'me', bit: VmFlag.MayExec },
  { code: 'ms', bit: VmFlag.MayShare },
  { code: 'gd', bit: VmFlag.GrowsDown },
  { code: 'um', bit: VmFlag.UffdMissing },
  { code: 'pf', bit: VmFlag.PfnMap },
  { code: 'uw', bit: VmFlag.UffdWp },
  { code: 'lo', bit: VmFlag.Locked },
  { code: 'io', bit: VmFlag.Io },
  { code: 'dc', bit: VmFlag.DontCopy },
  { code: 'de', bit: VmFlag.DontExpand },
  { code: 'lf', bit: VmFlag.LockOnFault },
  { code: 'ac', bit: VmFlag.Account },
  { code: 'nr', bit: VmFlag.NoReserve },
  { code: 'ht', bit: VmFlag.HugeTlb },
  { code: 'dd', bit: VmFlag.DontDump },
  { code: 'hg', bit: VmFlag.HugePage },
  { code: 'nh', bit: VmFlag.NoHugePage },
  { code: 'mg', bit: VmFlag.Mergeable },
  { code: 'uf', bit: VmFlagHigh.UserFault, high: true },
  { code: 'ui', bit: VmFlagHigh.UffdMinor, high: true },
];

/** The codes of the flags that are set, in the order of the bits. */
export const vmFlagCodes = (lo: number, hi: number): string[] =>
  VM_FLAG_CODES.filter(({ bit, high }) => ((high ? hi : lo) & bit) !== 0).map(({ code }) => code);
