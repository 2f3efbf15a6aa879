import { Random } from '../../../src/base/random.ts';
import { listing } from '../block.ts';
import { shrink } from '../shrink.ts';
import { type PrivilegedRegisters, randomPrivilegedCase, randomPrivilegedRegisters } from './generate.ts';
import {
  buildPrivileged,
  memoryDifference,
  type PrivilegedCase,
  randomWorld,
  recordDifference,
  type World,
} from './image.ts';
import { OurSupervisor } from './ours.ts';
import { runQemuSystem } from './qemu-system.ts';

// S- and U-mode programs under Sv39, on QEMU's machine and on ours.

export type PrivilegedOptions = { seed: number; instructions: number; print(line: string): void };

const BLOCKS = 250;
const BLOCK_INSTRUCTIONS = 200;
const SHOWN = 3;

/** Lines for each record that differs, and for the memory that they share. */
type Outcome = { records: string[][]; memory: string[]; instructions: number };

class Comparison {
  readonly #ours = new OurSupervisor();

  async run(world: World, cases: readonly PrivilegedCase[]): Promise<Outcome> {
    const image = buildPrivileged(world, cases);
    const peer = runQemuSystem(image);
    const ours = this.#ours.run(image, world.frame);
    const theirs = await peer;
    if ('failure' in theirs) throw new Error(`QEMU ${theirs.failure}`);
    const records = cases.map((_, i) => {
      const failure = ours.failures.get(i);
      return failure === undefined ? recordDifference(theirs.dump, ours.dump, i) : [`  ours ${failure}`];
    });
    const memory = memoryDifference(theirs.dump, ours.dump, cases.length);
    return { records, memory, instructions: ours.instructions };
  }
}

type Print = (line: string) => void;

const shrinkAlone = (comparison: Comparison, world: World, c: PrivilegedCase): Promise<PrivilegedCase> =>
  shrink(async cases => (await comparison.run(world, cases)).records.map(lines => lines.length > 0), c);

/** Cases share memory: first fewer of them, then fewer items in each, as long as anything differs. */
const shrinkTogether = async (
  comparison: Comparison,
  world: World,
  cases: readonly PrivilegedCase[],
): Promise<readonly PrivilegedCase[]> => {
  const differs = async (candidate: readonly PrivilegedCase[]) => {
    const { records, memory } = await comparison.run(world, candidate);
    return memory.length > 0 || records.some(lines => lines.length > 0);
  };
  let left = await fewer(cases, differs);
  for (let at = left.length - 1; at >= 0; at--) {
    const within = (items: PrivilegedCase['items']) => left.map((c, i) => (i === at ? { ...c, items } : c));
    left = within(await fewer(left[at]!.items, items => differs(within(items))));
  }
  return left;
};

/** Without ever smaller runs of the list, as long as it differs. */
const fewer = async <T>(
  list: readonly T[],
  differs: (list: readonly T[]) => Promise<boolean>,
): Promise<readonly T[]> => {
  for (let size = (list.length + 1) >> 1; size >= 1; size >>= 1) {
    for (let at = list.length - size; at > -size; at -= size) {
      const without = [...list.slice(0, Math.max(0, at)), ...list.slice(at + size)];
      if (await differs(without)) list = without;
    }
  }
  return list;
};

const showCases = async (
  comparison: Comparison,
  world: World,
  cases: readonly PrivilegedCase[],
  print: Print,
) => {
  const { records, memory } = await comparison.run(world, cases);
  const addresses = buildPrivileged(world, cases).blockAddresses;
  cases.forEach(({ items, state }, i) => {
    print(`block of ${items.length} items, frame x${world.frame}`);
    for (const line of listing(items, addresses[i]!)) print(line);
    const { x, user, space, sstatus } = state;
    print(`  from ${user ? 'user' : 'supervisor'} mode, space ${space}, sstatus ${sstatus.toString(16)}`);
    print(`  ${x.map((value, n) => `x${n}=${value.toString(16)}`).join(' ')}`);
    for (const line of records[i]!) print(line);
  });
  for (const line of memory) print(line);
};

/** Prints what differs as short as it can be made. */
const show = async (
  comparison: Comparison,
  world: World,
  cases: readonly PrivilegedCase[],
  outcome: Outcome,
  print: Print,
): Promise<void> => {
  const first = outcome.records.findIndex(lines => lines.length > 0);
  const until = first < 0 ? cases : cases.slice(0, first + 1);
  const last = until.at(-1)!;
  const alone = await comparison.run(world, [last]);
  const small =
    alone.records[0]!.length > 0
      ? [await shrinkAlone(comparison, world, last)]
      : await shrinkTogether(comparison, world, until);
  await showCases(comparison, world, small, print);
};

const piecesOf = (cases: readonly PrivilegedCase[]): number =>
  cases.reduce((sum, c) => sum + c.items.reduce((n, i) => n + i.pieces.length, 0), 0);

const makeCases = (r: Random, registers: PrivilegedRegisters, blocks: number): PrivilegedCase[] =>
  Array.from({ length: blocks }, () => randomPrivilegedCase(r, registers, BLOCK_INSTRUCTIONS));

/** Returns the number of blocks that differ. */
export const runPrivileged = async (o: PrivilegedOptions): Promise<number> => {
  const comparison = new Comparison();
  const r = new Random(o.seed);
  let [instructions, retired, blocks, differences] = [0, 0, 0, 0];
  while (instructions < o.instructions && differences < SHOWN) {
    const registers = randomPrivilegedRegisters(r);
    const world = randomWorld(r, registers.frame);
    const left = Math.ceil((o.instructions - instructions) / BLOCK_INSTRUCTIONS);
    const cases = makeCases(r, registers, Math.min(BLOCKS, left));
    const outcome = await comparison.run(world, cases);
    instructions += piecesOf(cases);
    retired += outcome.instructions;
    blocks += cases.length;
    const different = outcome.records.filter(lines => lines.length > 0).length;
    // Memory that differs behind equal records is a difference too.
    const found = different || (outcome.memory.length > 0 ? 1 : 0);
    if (found > 0) await show(comparison, world, cases, outcome, o.print);
    differences += found;
  }
  o.print(`${instructions} instructions in ${blocks} blocks (${retired} retired with driver and handler)`);
  return differences;
};
