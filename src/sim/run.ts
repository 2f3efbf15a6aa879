import { spawnWorker } from '../host/node/spawn.ts';
import { type AnyCase, schedulesOf } from './case.ts';
import { type Exploration, explore, type Failure, type Options, Session } from './explorer.ts';
import type { JobTask } from './job-worker.ts';
import { nextMessage } from './next-message.ts';
import { Pool } from './pool.ts';
import { parsePlan } from './schedule.ts';

/** What came of one case under one profile. Plain data, so that a thread can send it. */
export type Report = {
  name: string;
  profile: string;
  bound: number;
  schedules: number;
  pruned: number;
  points: number;
  /** Rows whose schedule was wanted. */
  rows: string[];
  milliseconds: number;
  mutants: { name: string; killed: boolean; schedules: number; by: string }[];
  /** Everything that makes the case fail. */
  problems: string[];
};

/** Explores a case, then each of its mutants until a schedule fails. */
export async function runCase(pool: Pool, test: AnyCase, profile: string, options: Options): Promise<Report> {
  const started = performance.now();
  const bounded = { ...options, preemptions: test.preemptions ?? options.preemptions };
  const honest = await exploreWith(pool, test, profile, {}, bounded);
  const report: Report = {
    name: test.name,
    profile,
    bound: bounded.preemptions,
    schedules: honest.schedules,
    pruned: honest.pruned,
    points: honest.points.size,
    rows: Object.keys(schedulesOf(test, profile)),
    milliseconds: 0,
    mutants: [],
    problems: problemsOf(honest, test, profile),
  };
  if (report.problems.length === 0) await searchAtomics(pool, test, profile, options, report);
  for (const mutant of test.mutants) {
    if (mutant.profiles !== undefined && !mutant.profiles.includes(profile)) continue;
    const broken = await exploreWith(pool, test, profile, mutant.breaks, bounded);
    const { failure, schedules } = broken;
    report.mutants.push({
      name: mutant.name,
      killed: failure !== undefined,
      schedules,
      by: failure?.reason ?? '',
    });
    report.schedules += schedules;
    if (failure === undefined)
      report.problems.push(`mutant '${mutant.name}' survived ${schedules} schedules`);
  }
  report.milliseconds = performance.now() - started;
  return report;
}

/** The second mode: seeded schedules that stop before every atomic access, which no name is given to. */
async function searchAtomics(
  pool: Pool,
  test: AnyCase,
  profile: string,
  options: Options,
  report: Report,
): Promise<void> {
  if (test.everyAtomic || Object.keys(test.actors).length < 2 || options.atomics === 0) return;
  const session = new Session(pool, test, profile, {}, true);
  await session.load();
  const found = explore(session, {}, { ...options, preemptions: 0, random: options.atomics });
  report.schedules += found.schedules;
  if (found.failure !== undefined) {
    report.problems.push(`${describe(found.failure, test, profile)} --atomics all`);
  }
}

async function exploreWith(
  pool: Pool,
  test: AnyCase,
  profile: string,
  breaks: object,
  options: Options,
): Promise<Exploration> {
  const session = new Session(pool, test, profile, breaks);
  await session.load();
  return explore(session, schedulesOf(test, profile), options);
}

function problemsOf(found: Exploration, test: AnyCase, profile: string): string[] {
  if (found.failure !== undefined) return [describe(found.failure, test, profile)];
  const problems = found.unreached.map(constraint => `never reached: ${constraint}`);
  if (!found.complete) problems.push(`gave up after ${found.schedules} schedules`);
  return problems;
}

function describe(failure: Failure, test: AnyCase, profile: string): string {
  return [
    failure.reason,
    `  ${failure.trace}`,
    `  npm run explore -- --case ${test.name} --profile ${profile} --schedule '${failure.schedule}'`,
  ].join('\n');
}

/** One line of the table. */
export function formatReport(r: Report): string {
  const killed = r.mutants.filter(m => m.killed).length;
  return [
    r.problems.length === 0 ? 'ok  ' : 'FAIL',
    r.name.padEnd(16),
    r.profile.padEnd(10),
    `bound ${r.bound}`,
    `points ${String(r.points).padStart(3)}`,
    `schedules ${String(r.schedules).padStart(7)}`,
    `pruned ${String(r.pruned).padStart(7)}`,
    `mutants ${killed}/${r.mutants.length}`,
    `${(r.milliseconds / 1000).toFixed(1)} s`,
  ].join('  ');
}

/** Explores one mutant and prints the schedule that gives it away; 1 if none does. */
export async function showMutant(
  test: AnyCase,
  profile: string | undefined,
  name: string,
  options: Options,
): Promise<number> {
  const pool = new Pool();
  try {
    const mutant = mutantOf(test, name);
    const p = profile ?? (test.profiles[0] as string);
    const found = await exploreWith(pool, test, p, mutant.breaks, options);
    if (found.failure === undefined) console.log(`survived ${found.schedules} schedules`);
    else console.log(`${describe(found.failure, test, p)} --mutant '${name}'`);
    return found.failure === undefined ? 1 : 0;
  } finally {
    await pool.close();
  }
}

function mutantOf(test: AnyCase, name: string): AnyCase['mutants'][number] {
  const found = test.mutants.find(m => m.name === name);
  if (found !== undefined) return found;
  throw new RangeError(`no mutant '${name}'; there are: ${test.mutants.map(m => m.name).join('; ')}`);
}

/** Replays one schedule and prints what happened; 1 if it fails. */
export async function runOne(
  test: AnyCase,
  profile: string | undefined,
  mutant: string | undefined,
  schedule: string,
  everyAtomic: boolean,
): Promise<number> {
  const pool = new Pool();
  try {
    const breaks = mutant === undefined ? {} : mutantOf(test, mutant).breaks;
    const p = profile ?? (test.profiles[0] as string);
    const session = new Session(pool, test, p, breaks, everyAtomic);
    await session.load();
    const { trace, wrong } = session.run(parsePlan(schedule, session.actors));
    for (const e of trace) console.log(`  ${e.actor.padEnd(12)} ${e.label}`);
    console.log(wrong ?? 'ok');
    return wrong === undefined ? 0 : 1;
  } finally {
    await pool.close();
  }
}

/** Explores all cases under all their profiles and prints the table; 1 if anything is wrong. */
export async function runAll(
  cases: readonly AnyCase[],
  profile: string | undefined,
  options: Options,
  jobs: number,
): Promise<number> {
  const started = performance.now();
  const queue: JobTask[] = [];
  for (const test of cases) {
    for (const p of test.profiles) {
      if (profile === undefined || p === profile) queue.push({ name: test.name, profile: p, options });
    }
  }
  const reports: Report[] = [];
  await Promise.all(
    Array.from({ length: Math.min(jobs, queue.length) }, async () => {
      for await (const report of reportsOf(queue)) {
        reports.push(report);
        print(report);
      }
    }),
  );
  return total(reports, performance.now() - started);
}

/** One thread that takes cases from the queue until it is empty. */
async function* reportsOf(queue: JobTask[]): AsyncGenerator<Report> {
  const worker = spawnWorker(new URL('./job-worker.ts', import.meta.url), {});
  await nextMessage(worker);
  for (let task = queue.shift(); task !== undefined; task = queue.shift()) {
    const done = nextMessage(worker);
    worker.postMessage(task);
    yield (await done) as Report;
  }
  await worker.terminate();
}

function print(report: Report): void {
  console.log(formatReport(report));
  if (report.rows.length > 0) console.log(`        ${report.rows.join(', ')}`);
  for (const problem of report.problems) console.log(`     ${problem.replaceAll('\n', '\n     ')}`);
}

function total(reports: readonly Report[], milliseconds: number): number {
  const sum = (pick: (r: Report) => number): number => reports.reduce((n, r) => n + pick(r), 0);
  const killed = sum(r => r.mutants.filter(m => m.killed).length);
  const failed = sum(r => (r.problems.length > 0 ? 1 : 0));
  console.log(
    `${reports.length} explorations, ${sum(r => r.schedules)} schedules, ${sum(r => r.pruned)} pruned, ` +
      `${killed}/${sum(r => r.mutants.length)} mutants killed, ${failed} failed, ${(milliseconds / 1000).toFixed(0)} s`,
  );
  return failed > 0 || reports.length === 0 ? 1 : 0;
}
