import { expect, test } from 'vitest';
import { MIB } from '../base/units.ts';
import { type GuestStat, memHeader, memText } from './mem-text.ts';

const CPU = {
  instret: 5_000_000,
  regions: 230,
  region_instructions: 20_041,
  regions_recalled: 0,
  region_batches: 30,
  region_wasm_bytes: 964 * 1024,
  region_microseconds: 913_000,
  region_drops: 0,
  region_entries_refused: 205,
  region_exits_lookup: 1000,
  region_exits_interpret: 10,
  interpreter_calls: 500,
  tlb_fills: 4000,
  tlb_misses: 400,
  tlb_asked: 40,
};

const FIRST: GuestStat = {
  residentBytes: 64 * MIB,
  limitBytes: undefined,
  youngBytes: 48 * MIB,
  oldBytes: 16 * MIB,
  swappedBytes: 0,
  zeroBytes: 4096,
  anonHugeBytes: 2 * MIB,
  mergedBytes: 0,
  pressureSome: 1.26,
  peakBytes: 64 * MIB,
  pgfault: 18_000,
  pgmajfault: 3,
  pswpin: 5,
  pswpout: 7,
  atMs: 10_000,
  balloonBytes: 0,
  userfaults: 1,
  cpu: CPU,
};

/** Two seconds on. */
const SECOND: GuestStat = {
  ...FIRST,
  ...{ limitBytes: 72 * MIB, pgfault: 18_500, userfaults: 5, pgmajfault: 9, pswpin: 25, pswpout: 107 },
  atMs: 12_000,
  cpu: {
    ...CPU,
    ...{ instret: 405_000_000, regions: 231, region_instructions: 20_184, region_microseconds: 1_250_000 },
    ...{ region_exits_lookup: 3_001_000, region_exits_interpret: 2010, interpreter_calls: 4500 },
    tlb_misses: 100_400,
  },
};

const cells = (text: string): string[][] =>
  text
    .trimEnd()
    .split('\n')
    .map(line => line.match(/.{9}/g)!.map(cell => cell.trim()));

/** Each name of the header with what stands below it. */
function table(text: string): Record<string, string | undefined>[] {
  const [memory, cpu] = cells(memHeader());
  return cells(text).map((line, i) => {
    const names = (i === 0 ? memory : cpu)!;
    expect(line).toHaveLength(names.length);
    return Object.fromEntries(names.map((name, n) => [name, line[n]]));
  });
}

test('a guest is told of in two lines: its memory, and its CPU', () => {
  const [memory, cpu] = table(memText(SECOND, FIRST));
  expect(memory).toEqual({
    ...{ resident: '64 MiB', limit: '72 MiB', young: '48 MiB', old: '16 MiB', swapped: '0 B' },
    ...{ zero: '4 KiB', huge: '2 MiB', merged: '0 B', balloon: '0 B', 'psi %': '1.3' },
    ...{ 'faults/s': '250', 'asked/s': '2', 'major/s': '3', 'in/s': '10', 'out/s': '50' },
  });
  expect(cpu).toEqual({
    ...{ cpu: 'cpu', mips: '200.0', regions: '231', instrs: '20184', wasm: '964 KiB', compile: '1.25 s' },
    ...{ 'lookup/s': '1500000', 'interp/s': '1000', 'cold/s': '1000', 'miss/k': '0.25' },
  });
});

test('the first look has no rates, only what there is', () => {
  const [memory, cpu] = table(memText(FIRST, FIRST));
  const rates = ['faults/s', 'asked/s', 'major/s', 'in/s', 'out/s'];
  expect(rates.map(name => memory![name])).toEqual(rates.map(() => '-'));
  expect(memory).toMatchObject({ resident: '64 MiB', limit: 'none' });
  const { regions, instrs, wasm, compile, ...others } = cpu!;
  expect([regions, instrs, wasm, compile]).toEqual(['230', '20041', '964 KiB', '0.91 s']);
  expect(new Set(Object.values(others))).toEqual(new Set(['cpu', '-']));
});

test('a guest that sleeps has rates of 0, and no share of instructions that missed', () => {
  const [, cpu] = table(memText({ ...FIRST, atMs: 11_000 }, FIRST));
  expect(cpu).toMatchObject({ mips: '0.0', 'lookup/s': '0', 'interp/s': '0', 'cold/s': '0', 'miss/k': '-' });
});

test('a guest without a CPU yet has one line, and the look after that has no rates', () => {
  const { cpu: _, ...without } = FIRST;
  expect(cells(memText(without, without))).toHaveLength(1);
  expect(table(memText(SECOND, without))[1]).toMatchObject({ mips: '0.0', regions: '231', 'miss/k': '-' });
});
