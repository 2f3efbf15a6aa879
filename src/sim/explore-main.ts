import { parseArgs } from 'node:util';
import { allCases } from './cases/index.ts';
import { litmusMain } from './litmus.ts';
import { runAll, runOne, showMutant } from './run.ts';

const USAGE = `npm run explore -- [--list] [--case NAME] [--profile NAME] [--preemptions N] [--random N] [--atomics N] [--seed N]
                   [--mutant NAME] [--schedule 'actor*n actor …'] [--jobs N] [--litmus [--iterations N]]`;

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      list: { type: 'boolean' },
      help: { type: 'boolean' },
      case: { type: 'string', multiple: true },
      profile: { type: 'string' },
      preemptions: { type: 'string', default: '2' },
      random: { type: 'string', default: '200' },
      atomics: { type: 'string', default: '50' },
      seed: { type: 'string', default: '1' },
      mutant: { type: 'string' },
      schedule: { type: 'string' },
      jobs: { type: 'string', default: '2' },
      litmus: { type: 'boolean' },
      iterations: { type: 'string', default: '10000000' },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  if (values.litmus) return litmusMain(Number(values.iterations));
  const options = {
    preemptions: Number(values.preemptions),
    random: Number(values.random),
    atomics: Number(values.atomics),
    seed: Number(values.seed),
    maxSchedules: 2_000_000,
  };
  const wanted = (await allCases()).filter(c => values.case === undefined || values.case.includes(c.name));
  if (values.list) {
    for (const c of wanted) console.log(`${c.name.padEnd(18)} ${c.profiles.join(',').padEnd(24)} ${c.title}`);
    return 0;
  }
  if (wanted.length === 0) throw new RangeError('no such case; see --list');
  if (values.schedule !== undefined) {
    return runOne(wanted[0]!, values.profile, values.mutant, values.schedule, values.atomics === 'all');
  }
  if (values.mutant !== undefined) return showMutant(wanted[0]!, values.profile, values.mutant, options);
  return runAll(wanted, values.profile, options, Number(values.jobs));
}

try {
  process.exitCode = await main();
} catch (error) {
  // A bad option, or a thread that broke; a failing case is a report, not an error.
  console.error(error instanceof RangeError || error instanceof TypeError ? error.message : error);
  process.exitCode = 2;
}
