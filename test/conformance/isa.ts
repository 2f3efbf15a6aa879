import { Random } from '../../src/base/random.ts';
import { listing } from './block.ts';
import { EXTENSIONS, type Extension, randomCase, randomRegisters } from './generate.ts';
import { buildImage, type Case, describeDifference, type Frame, type Image, recordBytes } from './image.ts';
import { OurCpu } from './ours.ts';
import { runQemuUser } from './qemu-user.ts';
import { shrink } from './shrink.ts';

// Random programs in one piece on QEMU and on ours; every difference, shrunk.

export type IsaOptions = {
  seed: number;
  /** Of each extension, at least. */
  instructions: number;
  extensions: readonly Extension[];
  /** The QEMU program. */
  program: string;
  print(line: string): void;
};

export type IsaCounts = { instructions: number; ofExtension: number; blocks: number; differences: number };

const BLOCKS = 500;
const STATES = 4;
const BLOCK_INSTRUCTIONS = 200;
/** Differing blocks that are shrunk and shown for an extension, which then stops. */
const SHOWN = 3;

/** One record's outcome on both sides, equal or not. */
export type Verdict = { equal: true } | { equal: false; lines: string[] };

/** Runs cases on both sides. Verdicts in the order of the records. */
export class Comparison {
  readonly #ours = new OurCpu();
  readonly #program: string;

  constructor(program: string) {
    this.#program = program;
  }

  async run(frame: Frame, cases: readonly Case[]): Promise<{ verdicts: Verdict[]; instructions: number }> {
    const image = buildImage(frame, cases);
    const peer = runQemuUser(this.#program, image);
    const ours = this.#ours.run(image);
    const theirs = await peer;
    // Less than the truth when blocks don't come back.
    const instructions = Math.max(0, ours.instructions - image.records * image.driverInstructions);
    if ('data' in theirs) {
      const verdicts = Array.from({ length: image.records }, (_, i) => verdictOf(i, theirs.data, ours));
      return { verdicts, instructions };
    }
    return { verdicts: await this.#split(frame, cases, theirs.failure), instructions };
  }

  /** The peer died: halve until it is known of what. */
  async #split(frame: Frame, cases: readonly Case[], failure: string): Promise<Verdict[]> {
    const [only] = cases;
    if (cases.length === 1 && only!.states.length === 1) {
      return [{ equal: false, lines: [`  qemu ${failure}`] }];
    }
    const single = cases.flatMap(c => c.states.map(state => ({ items: c.items, states: [state] })));
    const middle = single.length >> 1;
    const halves = [single.slice(0, middle), single.slice(middle)];
    const verdicts: Verdict[] = [];
    for (const half of halves) verdicts.push(...(await this.run(frame, half)).verdicts);
    return verdicts;
  }
}

const verdictOf = (
  record: number,
  theirs: Uint8Array,
  ours: { data: Uint8Array; failures: Map<number, string> },
): Verdict => {
  const failure = ours.failures.get(record);
  if (failure !== undefined) return { equal: false, lines: [`  ours ${failure}`] };
  const lines = describeDifference(recordBytes(theirs, record), recordBytes(ours.data, record));
  return lines.length === 0 ? { equal: true } : { equal: false, lines };
};

/** Where a block that runs alone starts; for listings. */
export const addressAlone = (frame: Frame, c: Case): number => {
  const image: Image = buildImage(frame, [c]);
  return image.blockAddresses[0]!;
};

const show = async (comparison: Comparison, frame: Frame, c: Case, o: IsaOptions): Promise<void> => {
  const differ = async (cases: readonly Case[]) =>
    (await comparison.run(frame, cases)).verdicts.map(verdict => !verdict.equal);
  const small = await shrink(differ, c);
  o.print(`differs, ${small.items.length} of ${c.items.length} items left (base x${frame.base}):`);
  for (const line of listing(small.items, addressAlone(frame, small))) o.print(line);
  const { verdicts } = await comparison.run(frame, [small]);
  const verdict = verdicts[0]!;
  const state = small.states[0]!;
  o.print(`  from fcsr ${state.fcsr.toString(16)}; then`);
  for (const line of verdict.equal ? ['  (equal when run alone)'] : verdict.lines) o.print(line);
};

const runExtension = async (
  extension: Extension,
  o: IsaOptions,
  comparison: Comparison,
): Promise<IsaCounts> => {
  const r = new Random(o.seed + EXTENSIONS.indexOf(extension) * 7919);
  const counts: IsaCounts = { instructions: 0, ofExtension: 0, blocks: 0, differences: 0 };
  while (counts.ofExtension < o.instructions && counts.differences < SHOWN) {
    const left = (o.instructions - counts.ofExtension) / (BLOCK_INSTRUCTIONS * STATES * 0.5);
    const blocks = Math.max(1, Math.min(BLOCKS, Math.ceil(left)));
    const registers = randomRegisters(r, extension);
    const cases = Array.from({ length: blocks }, () =>
      randomCase(r, extension, registers, { instructions: BLOCK_INSTRUCTIONS, states: STATES }),
    );
    const { verdicts, instructions } = await comparison.run(registers.frame, cases);
    counts.instructions += instructions;
    counts.ofExtension += Math.floor(instructions * shareOf(cases));
    counts.blocks += blocks;
    for (const [i, verdict] of verdicts.entries()) {
      if (verdict.equal || ++counts.differences > SHOWN) continue;
      const { items, states } = cases[Math.floor(i / STATES)]!;
      await show(comparison, registers.frame, { items, states: [states[i % STATES]!] }, o);
    }
  }
  return counts;
};

/** How much of the blocks' text is of the extension. */
const shareOf = (cases: readonly Case[]): number => {
  let own = 0;
  let all = 0;
  for (const c of cases) {
    for (const i of c.items) {
      own += i.counts;
      all += i.pieces.length;
    }
  }
  return own / all;
};

/** Returns the number of records that differ. */
export const runIsa = async (o: IsaOptions): Promise<number> => {
  const comparison = new Comparison(o.program);
  let differences = 0;
  for (const extension of o.extensions) {
    const c = await runExtension(extension, o, comparison);
    const what = `${c.ofExtension} of ${extension} among ${c.instructions} instructions, ${c.blocks} blocks`;
    o.print(`${extension}: ${what} from ${STATES} states each, ${c.differences} differences`);
    differences += c.differences;
  }
  return differences;
};
