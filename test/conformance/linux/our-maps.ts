import { smaps } from '../../../src/inspect/smaps.ts';
import type { MmCore } from '../../../src/mm/core.ts';
import type { Ptr } from '../../../src/sync/struct.ts';
import { WINDOW, WINDOW_BYTES } from './script.ts';

/**
 * Figures of smaps that both sides tell. Not `Referenced`, `LazyFree` and `SwapPss`, which are a matter of time, nor what
 * is always 0. driver.c has the same list.
 */
const TOLD = [
  ...['KernelPageSize', 'MMUPageSize', 'Rss', 'Pss', 'Pss_Dirty', 'Shared_Clean', 'Shared_Dirty'],
  ...['Private_Clean', 'Private_Dirty', 'Anonymous', 'AnonHugePages', 'Swap', 'Locked'],
  'THPeligible',
];

/** What driver.c tells of /proc/self/smaps, of the text that we print for it. */
export const mapsLines = (core: MmCore, mm: Ptr<'mm'>): string => toldOf(smaps(core, mm));

/** A bracket for each mapping in the window: bounds, rights, figures that are not 0, flags. */
export function toldOf(text: string): string {
  let told = '';
  let inside = false;
  for (const line of text.split('\n')) {
    const [, from, to, rights] = /^([0-9a-f]+)-([0-9a-f]+) (....)/.exec(line) ?? [];
    if (rights !== undefined) {
      const [start, end] = [from!, to!].map(address => Number.parseInt(address, 16) - WINDOW);
      inside = start! >= 0 && start! < WINDOW_BYTES;
      if (inside) told += ` [${start!.toString(16)}-${end!.toString(16)} ${rights}`;
    } else if (inside) told += toldOfLine(line);
  }
  return told;
}

function toldOfLine(line: string): string {
  if (line.startsWith('VmFlags:')) return `${line.slice('VmFlags:'.length).trimEnd()}]`;
  const [, name = '', value] = /^([A-Za-z_]+): +(\d+)/.exec(line) ?? [];
  return TOLD.includes(name) && value !== '0' ? ` ${name}=${value}` : '';
}
