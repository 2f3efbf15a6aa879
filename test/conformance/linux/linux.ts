import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Random } from '../../../src/base/random.ts';
import { shrink } from '../shrink.ts';
import { RaceConditions } from './conditions.ts';
import { explain, type KnownDifference } from './differences.ts';
import { Generator } from './generate.ts';
import { needsUserfault, type Probe, probe, whyNoHuge, whyNoUserfault } from './machine.ts';
import { Ours } from './ours.ts';
import { formatScript, isRace, parseScript, type Script, wantsHuge } from './script.ts';
import { compact, runTheirs } from './theirs.ts';

// The same scripts on this machine's kernel and through our mm; every difference, shrunk.

export type LinuxOptions = {
  seed: number;
  scripts: number;
  /** Every script races, instead of one in ten. */
  racing?: boolean;
  print(line: string): void;
};

const BATCH = 200;
const SHOWN = 5;
/** How often each side runs a racing script that has differed. */
const RACE_RUNS = 20;
const LENGTH_MIN = 8;
const LENGTH_SPREAD = 40;

/** Programs that ask the kernel, and set the machine up for racing scripts; `folder` is theirs. */
export type Driver = { program: string; conditions: string; folder: string; remove(): void };

/** The programs, compiled; undefined without a compiler or on another system. */
export async function buildDriver(): Promise<Driver | undefined> {
  if (process.platform !== 'linux') return undefined;
  const folder = mkdtempSync(join(tmpdir(), 'faultline-linux-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const build = async (name: string): Promise<string> => {
    const source = new URL(`${name}.c`, import.meta.url).pathname;
    await promisify(execFile)('gcc', ['-O1', '-pthread', '-o', join(folder, name), source]);
    return join(folder, name);
  };
  try {
    const [program, conditions] = [await build('driver'), await build('conditions')];
    return { program, conditions, folder, remove };
  } catch {
    remove();
    return undefined;
  }
}

/** The kernel's release, for the report. */
export const kernelRelease = (): string => execFileSync('uname', ['-r'], { encoding: 'utf8' }).trim();

/** The first step on which the two sides differ for no known reason. */
type Difference = { step: number; theirs: string; ours: string };
const NOTHING = '(nothing)';

export class Comparison {
  readonly #driver: Driver;
  readonly #ours: Ours;
  readonly #race: RaceConditions;
  /** How often each known difference was met. */
  readonly explained = new Map<KnownDifference, number>();

  /** Runs of scripts for which the kernel had no huge page: nothing is known of them. */
  starved = 0;

  /** Differences that two more runs of the script didn't show. */
  unrepeatable = 0;

  constructor(driver: Driver, ours = new Ours()) {
    this.#ours = ours;
    this.#driver = driver;
    this.#race = new RaceConditions(driver.conditions, driver.folder);
  }

  /** Why the machine can't be raced with; undefined when it can. */
  whyNoRace(): Promise<string | undefined> {
    return this.#race.why();
  }

  /** What either side did beside racing scripts, a line each; none when there were none. */
  beside(): string[] {
    return [...this.#race.report(), ...this.#ours.report()];
  }

  async run(scripts: readonly Script[]): Promise<(Difference | undefined)[]> {
    const theirs = await this.#runTheirs(scripts);
    const found: (Difference | undefined)[] = [];
    for (const [i, script] of scripts.entries()) {
      const outcomes = theirs[i];
      if (outcomes === undefined) this.starved++;
      const difference =
        outcomes === undefined ? undefined : this.#compare(script, [outcomes], [await this.#runOurs(script)]);
      const again = difference !== undefined && isRace(script);
      found.push(again ? await this.#compareOften(script) : difference);
    }
    return found;
  }

  /** Which of the shorter scripts differ as it does? One that has lost its `thp` is of another kind, and does not. */
  async differ(script: Script, shorter: readonly Script[]): Promise<boolean[]> {
    const alike = shorter.filter(s => wantsHuge(s) === wantsHuge(script));
    const found = await this.run(alike);
    return shorter.map(s => alike.includes(s) && found[alike.indexOf(s)] !== undefined);
  }

  /** Both sides of a script; undefined where the kernel had no huge page for it. */
  async runOnce(script: Script): Promise<{ theirs: string[] | undefined; ours: string[] }> {
    const [theirs] = await this.#runTheirs([script]);
    return { theirs, ours: await this.#runOurs(script) };
  }

  /** Ends the second thread and gives the machine back as it was. */
  async close(): Promise<void> {
    await this.#ours.close();
    await this.#race.close();
  }

  async #runOurs(script: Script): Promise<string[]> {
    if (isRace(script)) await this.#ours.ready();
    return this.#ours.run(script);
  }

  /** Outcomes in the order of the scripts, though those that race run last and in conditions of their own. */
  async #runTheirs(scripts: readonly Script[]): Promise<(string[] | undefined)[]> {
    const { program } = this.#driver;
    const [calm, racing] = [scripts.filter(s => !isRace(s)), scripts.filter(isRace)];
    const ofCalm = await runTheirs(program, calm);
    const ofRacing = racing.length === 0 ? [] : await this.#race.during(() => runTheirs(program, racing));
    return scripts.map(script => (isRace(script) ? ofRacing : ofCalm).shift());
  }

  /**
   * A race may end in more than one way: each way that ours ends in has to be one that the kernel's does.
   */
  async #compareOften(script: Script): Promise<Difference | undefined> {
    const runs = await this.#runTheirs(Array.from({ length: RACE_RUNS }, () => script));
    const theirs = runs.filter(run => run !== undefined);
    const ours: string[][] = [];
    for (let i = 0; i < RACE_RUNS; i++) ours.push(await this.#runOurs(script));
    return this.#compare(script, theirs, ours);
  }

  /** Of several runs on each side. */
  #compare(script: Script, theirs: readonly string[][], ours: readonly string[][]): Difference | undefined {
    const length = Math.max(script.length, ...[...theirs, ...ours].map(run => run.length));
    for (let step = 0; step < length; step++) {
      const may = new Set(theirs.map(run => run[step] ?? NOTHING));
      const odd = ours.find(run => !may.has(run[step] ?? NOTHING));
      if (odd === undefined) continue;
      const known = [...may].map(a => explain(script, step, a, odd)).find(k => k !== undefined);
      if (known === undefined)
        return { step, theirs: [...may].join('\n       or '), ours: odd[step] ?? NOTHING };
      this.explained.set(known, (this.explained.get(known) ?? 0) + 1);
      if (known.ends) return undefined;
    }
    return undefined;
  }
}

/**
 * A script with threads may differ once because the machine was slow. What two more runs don't show again is
 * told, and not counted; but one that races has been run often already.
 */
const isRepeatable = async (
  comparison: Comparison,
  script: Script,
  seen: Difference,
  o: LinuxOptions,
): Promise<boolean> => {
  if (isRace(script)) return true;
  const again = await comparison.run([script, script]);
  if (again.some(difference => difference !== undefined)) return true;
  if (comparison.unrepeatable++ >= SHOWN) return false;
  o.print(`differed once, and not again in two runs, at step ${seen.step}: ${formatScript(script)}`);
  o.print(`    linux ${compact(seen.theirs)}`);
  o.print(`    ours  ${compact(seen.ours)}`);
  return false;
};

const tellDifference = (seen: Difference, script: Script, print: (line: string) => void): void => {
  print(`  step ${seen.step}: ${formatScript(script.slice(seen.step, seen.step + 1))}`);
  print(`    linux ${compact(seen.theirs)}`);
  print(`    ours  ${compact(seen.ours)}`);
};

const show = async (
  comparison: Comparison,
  script: Script,
  seen: Difference,
  o: LinuxOptions,
): Promise<void> => {
  const differ = (scripts: readonly { items: Script }[]) =>
    comparison.differ(
      script,
      scripts.map(c => c.items),
    );
  if (isRace(script)) {
    o.print(`differs, of ${script.length} steps:`);
    o.print(`  npm run conformance -- linux --script '${formatScript(script)}'`);
    tellDifference(seen, script, o.print);
  }
  const { items } = await shrink(differ, { items: script });
  const [difference] = await comparison.run([items]);
  o.print(`differs, ${items.length} of ${script.length} steps left:`);
  o.print(`  npm run conformance -- linux --script '${formatScript(items)}'`);
  if (difference === undefined) o.print('  (equal when run again)');
  else tellDifference(difference, items, o.print);
};

/** `racing`: all of them race, instead of one in ten. */
export const randomScripts = (r: Random, count: number, racing = false): Script[] =>
  Array.from({ length: count }, () => new Generator(r).script(LENGTH_MIN + r.below(LENGTH_SPREAD), racing));

/** What of the scripts can't be asked of this machine, and why. */
class NotRun {
  readonly #kinds: readonly { what: string; why: string | undefined; is(script: Script): boolean }[];
  readonly #counts = new Map<string, number>();

  constructor(noUserfault: string | undefined, noRace: string | undefined, noHuge: string | undefined) {
    this.#kinds = [
      { what: 'with user faults', why: noUserfault, is: needsUserfault },
      { what: 'with huge pages', why: noHuge, is: wantsHuge },
      { what: 'that race', why: noRace, is: isRace },
    ];
  }

  /** Those that can be. */
  filter(scripts: readonly Script[]): Script[] {
    return scripts.filter(script => {
      const kind = this.#kinds.find(k => k.why !== undefined && k.is(script));
      if (kind !== undefined) this.#counts.set(kind.what, (this.#counts.get(kind.what) ?? 0) + 1);
      return kind === undefined;
    });
  }

  report(): string[] {
    return this.#kinds
      .filter(({ what }) => this.#counts.has(what))
      .map(({ what, why }) => `linux: ${this.#counts.get(what)} scripts ${what}: not run: ${why}`);
  }
}

/** What the machine may say instead of being asked, for tests. */
type Here = { userfault?: Probe; race?: string; huge?: string };

/** Returns how many scripts differ without a reason. What the machine can't be asked is told as not run. */
export async function runLinux(driver: Driver, o: LinuxOptions, here: Here = {}): Promise<number> {
  const comparison = new Comparison(driver);
  try {
    return await compareAll(driver, comparison, o, here);
  } finally {
    await comparison.close();
  }
}

async function compareAll(
  driver: Driver,
  comparison: Comparison,
  o: LinuxOptions,
  here: Here,
): Promise<number> {
  const r = new Random(o.seed);
  const noUserfault = whyNoUserfault(here.userfault ?? probe(driver.program));
  const notRun = new NotRun(
    noUserfault,
    here.race ?? (await comparison.whyNoRace()),
    here.huge ?? whyNoHuge(),
  );
  let differences = 0;
  for (let done = 0; done < o.scripts && differences < SHOWN; done += BATCH) {
    const scripts = notRun.filter(randomScripts(r, Math.min(BATCH, o.scripts - done), o.racing));
    for (const [i, difference] of (await comparison.run(scripts)).entries()) {
      if (difference === undefined || !(await isRepeatable(comparison, scripts[i]!, difference, o))) continue;
      if (++differences <= SHOWN) await show(comparison, scripts[i]!, difference, o);
    }
  }
  for (const [{ name, reason }, count] of comparison.explained)
    o.print(`known difference, ${count} times: ${name}: ${reason}`);
  for (const line of [...comparison.beside(), ...notRun.report()]) o.print(line);
  if (comparison.starved > 0)
    o.print(`linux: ${comparison.starved} scripts: not run: the kernel had no huge page for them`);
  if (comparison.unrepeatable > 0) o.print(`${comparison.unrepeatable} scripts differed once and not again`);
  return differences;
}

/** Runs one script that was pasted, and prints both sides of every step. */
export async function runOneScript(
  driver: Driver,
  text: string,
  print: (line: string) => void,
): Promise<number> {
  const script = parseScript(text);
  const comparison = new Comparison(driver);
  try {
    const notRun = new NotRun(
      whyNoUserfault(probe(driver.program)),
      await comparison.whyNoRace(),
      whyNoHuge(),
    );
    if (notRun.filter([script]).length > 0) return await compareOne(comparison, script, print);
    notRun.report().forEach(print);
    return 0;
  } finally {
    await comparison.close();
  }
}

async function compareOne(
  comparison: Comparison,
  script: Script,
  print: (line: string) => void,
): Promise<number> {
  const [difference] = await comparison.run([script]);
  const { theirs, ours } = await comparison.runOnce(script);
  if (theirs === undefined) {
    print('linux: not run: the kernel had no huge page for it');
    return 0;
  }
  for (let i = 0; i < Math.max(script.length, ours.length); i++) {
    print(`${i}  ${i < script.length ? formatScript(script.slice(i, i + 1)) : ''}`);
    print(`    linux ${compact(theirs[i] ?? NOTHING)}`);
    if (ours[i] !== theirs[i]) print(`    ours  ${compact(ours[i] ?? NOTHING)}`);
  }
  if (difference !== undefined) tellDifference(difference, script, print);
  comparison.beside().forEach(print);
  return difference === undefined ? 0 : 1;
}
