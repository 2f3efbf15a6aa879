import { parseArgs } from 'node:util';
import type { BenchGuest } from './bench-guest.ts';
import { TESTS } from './cpu-tests.ts';
import { geometricMean, load, median } from './lib.ts';

export type RoundOptions = { tests: string[]; rounds: number; seconds: number };

/** `[--tests a,b] [--rounds N] [--seconds S]` of benches that compare two guests of ours. */
export function parseRounds(args: string[]): RoundOptions {
  const { values } = parseArgs({
    args,
    options: {
      tests: { type: 'string' },
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '0.5' },
    },
  });
  const tests = values.tests?.split(',') ?? TESTS;
  for (const name of tests) if (!TESTS.includes(name)) throw new Error(`no test is called ${name}`);
  return { tests, rounds: Number(values.rounds), seconds: Number(values.seconds) };
}

const WARM_SECONDS = 5;

/** A test in one of the guests, `processes` of it at once. */
export type Side = { guest: BenchGuest; processes: number };

/** What a rate is of: a second of the clock, or of processor time of all the guest's threads. */
type Per = 'wall' | 'cpu';

/** Two sides to compare, by what is said of them. */
export type Pair = { what: string; side: Side; other: Side };

/**
 * For each pair the rate of one side over that of the other, by round: the geometric mean of the tests, each measured on
 * all sides in turn. What warms up does not count: every test once on each side, and five seconds at least.
 */
export async function comparePairs(
  pairs: readonly Pair[],
  options: RoundOptions,
  per: Per,
): Promise<number[][]> {
  const { tests, rounds } = options;
  await warmUp(
    pairs.flatMap(({ side, other }) => [side, other]),
    options,
  );
  const means: number[][] = pairs.map(() => []);
  const byTest = new Map<string, number[][]>(tests.map(test => [test, pairs.map(() => [])]));
  for (let round = 1; round <= rounds; round++) {
    for (const test of tests) {
      for (const [i, pair] of pairs.entries())
        byTest.get(test)![i]!.push(await ratioOf(test, pair, round, options, per));
    }
    for (const [i, list] of means.entries())
      list.push(geometricMean(tests.map(test => byTest.get(test)![i]!.at(-1)!)));
    const line = pairs.map(({ what }, i) => `${what} ${means[i]!.at(-1)!.toFixed(3)}`).join(', ');
    console.log(`  round ${round} of ${rounds}: ${line}   load ${load()}`);
  }
  for (const [test, ratios] of byTest)
    console.log(`  ${test.padEnd(10)} ${ratios.map(list => median(list).toFixed(3)).join('  ')}`);
  return means;
}

/** Of one pair. */
export async function compare(pair: Pair, options: RoundOptions, per: Per): Promise<number[]> {
  return (await comparePairs([pair], options, per))[0]!;
}

async function ratioOf(
  test: string,
  { side, other }: Pair,
  round: number,
  options: RoundOptions,
  per: Per,
): Promise<number> {
  // In turn also as to who is first.
  const sides = round % 2 === 1 ? [side, other] : [other, side];
  const rates = [await once(test, sides[0]!, options, per), await once(test, sides[1]!, options, per)];
  return round % 2 === 1 ? rates[0]! / rates[1]! : rates[1]! / rates[0]!;
}

async function warmUp(sides: Side[], options: RoundOptions): Promise<void> {
  const { tests, seconds } = options;
  const passes = Math.max(1, Math.ceil(WARM_SECONDS / (tests.length * seconds)));
  for (let pass = 1; pass <= passes; pass++) {
    console.log(`  warming up, ${pass} of ${passes}   load ${load()}`);
    for (const test of tests) for (const side of sides) await once(test, side, options, 'wall');
  }
}

async function once(
  test: string,
  { guest, processes }: Side,
  { seconds }: RoundOptions,
  per: Per,
): Promise<number> {
  const pass = await guest.measure(test, seconds, processes);
  return per === 'wall' ? pass.rate : pass.rate / pass.threads;
}
