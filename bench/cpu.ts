// bench.c's eighteen tests in our guest and in those of the peers, in turn in one run: one source, compiled for each.

import { parseArgs } from 'node:util';
import type { BenchGuest } from './bench-guest.ts';
import { checkBars } from './cpu-bars.ts';
import { CpuFigures } from './cpu-figures.ts';
import { TESTS } from './cpu-tests.ts';
import { withWork } from './guest-program.ts';
import { load } from './lib.ts';
import { PEERS, type PeerName, Peers } from './peers.ts';

type Options = { tests: string[]; peers: PeerName[]; rounds: number; seconds: number; json: boolean };

/** `npm run bench -- cpu [--peer qemu|v86]... [--tests a,b] [--rounds N] [--seconds S] [--json]`. */
export async function run(args: string[]): Promise<boolean | undefined> {
  const options = parse(args);
  return withWork(async work => {
    const guests = await startAll(new Peers(work), options.peers);
    try {
      const figures = await measure(guests, options);
      figures.print();
      if (options.json) process.stdout.write(`${JSON.stringify(figures.json())}\n`);
      return checkBars(figures, options.tests.length === TESTS.length);
    } finally {
      for (const guest of guests) await guest.stop();
    }
  });
}

function parse(args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      peer: { type: 'string', multiple: true },
      tests: { type: 'string' },
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '1' },
      json: { type: 'boolean', default: false },
    },
  });
  const peers = values.peer ?? ['qemu', 'v86'];
  const tests = values.tests?.split(',') ?? TESTS;
  for (const name of peers)
    if (!PEERS.includes(name as PeerName)) throw new Error(`no peer is called ${name}`);
  for (const name of tests) if (!TESTS.includes(name)) throw new Error(`no test is called ${name}`);
  const rounds = Number(values.rounds);
  const seconds = Number(values.seconds);
  if (!(rounds >= 1 && seconds > 0)) throw new Error('--rounds and --seconds want numbers above zero');
  const wanted = ['faultline', 'native', ...peers];
  return { tests, rounds, seconds, json: values.json, peers: PEERS.filter(name => wanted.includes(name)) };
}

async function startAll(peers: Peers, names: PeerName[]): Promise<BenchGuest[]> {
  const guests: BenchGuest[] = [];
  try {
    for (const name of names) {
      const guest = await peers.start(name);
      if (guest !== undefined) guests.push(guest);
    }
    return guests;
  } catch (error) {
    for (const guest of guests) await guest.stop();
    throw error;
  }
}

/**
 * Each test by one peer after the other, so that what else the machine does hits them alike; then the next round. The
 * first pass of each, which finds out how much work a pass is, lets translators warm up and does not count.
 */
async function measure(guests: BenchGuest[], { tests, rounds, seconds }: Options): Promise<CpuFigures> {
  const figures = new CpuFigures(guests.map(guest => guest.name as PeerName));
  for (const [at, test] of tests.entries()) {
    console.log(`  warming up: ${test}, ${at + 1} of ${tests.length}   load ${load()}`);
    for (const guest of guests) await guest.measure(test, seconds);
  }
  for (let round = 1; round <= rounds; round++) {
    for (const test of tests) {
      for (const guest of guests)
        figures.add(test, guest.name as PeerName, await guest.measure(test, seconds));
      console.log(`  round ${round} of ${rounds}: ${figures.lastLine(test)}   load ${load()}`);
    }
  }
  return figures;
}
