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

const show = async (comparison: Comparison, world: World, c: PrivilegedCase, print: (l: string) => void) => {
  const differ = async (cases: readonly PrivilegedCase[]) => {
    // Together by record; memory is shared, so what only shows there needs a run of its own.
    const { records } = await comparison.run(world, cases);
    return records.map(lines => lines.length > 0);
  };
  const alone = await comparison.run(world, [c]);
  if (alone.records[0]!.length === 0) {
    print(alone.memory.length === 0 ? 'differs, but not alone' : 'leaves other memory');
    for (const line of alone.memory) print(line);
    return;
  }
  const small = await shrink(differ, c);
  const address = buildPrivileged(world, [small]).blockAddresses[0]!;
  print(`differs, ${small.items.length} of ${c.items.length} items left (frame x${world.frame}):`);
  for (const line of listing(small.items, address)) print(line);
  const { x, user, space, sstatus } = small.state;
  print(`  from ${user ? 'user' : 'supervisor'} mode, space ${space}, sstatus ${sstatus.toString(16)}`);
  print(`  ${x.map((value, i) => `x${i}=${value.toString(16)}`).join(' ')}`);
  const { records, memory } = await comparison.run(world, [small]);
  for (const line of [...records[0]!, ...memory]) print(line);
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
    const different = cases.filter((_, i) => outcome.records[i]!.length > 0);
    differences += different.length;
    for (const c of different.slice(0, SHOWN)) await show(comparison, world, c, o.print);
    if (different.length > 0 || outcome.memory.length === 0) continue;
    differences++;
    o.print('memory differs behind blocks whose registers do not:');
    for (const line of outcome.memory) o.print(line);
  }
  o.print(`${instructions} instructions in ${blocks} blocks (${retired} retired with driver and handler)`);
  return differences;
};
