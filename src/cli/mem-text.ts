import { formatSize } from '../base/size.ts';
import type { CpuStat } from '../sdk/index.ts';
import type { GuestMemoryStat } from '../sdk/memory.ts';

// What `faultline mem` prints of a guest: a line for its memory, and one for its CPU, in columns of equal width.

/** What a guest publishes. The CPU's part is missing where it has none yet. */
export type GuestStat = GuestMemoryStat & { cpu?: CpuStat };

const WIDTH = 9;
const MEMORY = [
  'resident',
  'limit',
  'young',
  'old',
  'swapped',
  'zero',
  'huge',
  'merged',
  'balloon',
  'psi %',
  'faults/s',
  'asked/s',
  'major/s',
  'in/s',
  'out/s',
];
const CPU = [
  'cpu',
  'mips',
  'regions',
  'instrs',
  'wasm',
  'compile',
  'lookup/s',
  'interp/s',
  'cold/s',
  'miss/k',
];
/** Where there is nothing to divide by: at the first look, or while a guest sleeps. */
const UNKNOWN = '-';

/** The names of both lines' columns. */
export const memHeader = (): string => `${row(MEMORY)}\n${row(CPU)}\n`;

/** Both lines; `before` is the look before this one, or the same. */
export function memText(now: GuestStat, before: GuestStat): string {
  const seconds = (now.atMs - before.atMs) / 1000;
  const memory = row(memoryCells(now, before, seconds));
  if (now.cpu === undefined) return `${memory}\n`;
  return `${memory}\n${row(cpuCells(now.cpu, before.cpu ?? now.cpu, seconds))}\n`;
}

const row = (cells: readonly string[]): string => cells.map(text => text.padStart(WIDTH)).join('');

function memoryCells(now: GuestStat, before: GuestStat, seconds: number): string[] {
  const rate = (key: 'pgfault' | 'userfaults' | 'pgmajfault' | 'pswpin' | 'pswpout') =>
    ratio(now[key] - before[key], seconds);
  return [
    formatSize(now.residentBytes),
    now.limitBytes === undefined ? 'none' : formatSize(now.limitBytes),
    formatSize(now.youngBytes),
    formatSize(now.oldBytes),
    formatSize(now.swappedBytes),
    formatSize(now.zeroBytes),
    formatSize(now.anonHugeBytes),
    formatSize(now.mergedBytes),
    formatSize(now.balloonBytes),
    now.pressureSome.toFixed(1),
    rate('pgfault'),
    rate('userfaults'),
    rate('pgmajfault'),
    rate('pswpin'),
    rate('pswpout'),
  ];
}

/**
 * Millions of instructions a second; all that was translated, and how long that took; exits of regions to another
 * place and to the interpreter, and calls of it where there was no region; pages that the TLB had not, in 1000
 * instructions.
 */
function cpuCells(now: CpuStat, before: CpuStat, seconds: number): string[] {
  const since = (key: keyof CpuStat) => now[key] - before[key];
  return [
    'cpu',
    ratio(since('instret') / 1e6, seconds, 1),
    String(now.regions),
    String(now.region_instructions),
    formatSize(now.region_wasm_bytes),
    `${(now.region_microseconds / 1e6).toFixed(2)} s`,
    ratio(since('region_exits_lookup'), seconds),
    ratio(since('region_exits_interpret'), seconds),
    ratio(since('interpreter_calls') - since('region_exits_interpret'), seconds),
    ratio(1000 * since('tlb_misses'), since('instret'), 2),
  ];
}

const ratio = (events: number, by: number, digits = 0): string =>
  by > 0 ? (events / by).toFixed(digits) : UNKNOWN;
