import { execFile, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Random } from '../../../src/base/random.ts';
import { shrink } from '../shrink.ts';
import { explain, type KnownDifference } from './differences.ts';
import { Generator } from './generate.ts';
import { needsUserfault, probe, whyNoUserfault } from './machine.ts';
import { Ours } from './ours.ts';
import { formatScript, parseScript, type Script } from './script.ts';

// The same scripts on this machine's kernel and through our mm; every difference, shrunk.

export type LinuxOptions = { seed: number; scripts: number; print(line: string): void };

const BATCH = 200;
const SHOWN = 5;
const LENGTH_MIN = 8;
const LENGTH_SPREAD = 40;

/** The program that asks the kernel, compiled; undefined without a compiler or on another system. */
export async function buildDriver(): Promise<{ program: string; remove(): void } | undefined> {
  if (process.platform !== 'linux') return undefined;
  const folder = mkdtempSync(join(tmpdir(), 'faultline-linux-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const program = join(folder, 'driver');
  const source = new URL('driver.c', import.meta.url).pathname;
  try {
    await promisify(execFile)('gcc', ['-O1', '-pthread', '-o', program, source]);
    return { program, remove };
  } catch {
    remove();
    return undefined;
  }
}

/** The kernel's release, for the report. */
export const kernelRelease = (): string => execFileSync('uname', ['-r'], { encoding: 'utf8' }).trim();

/** Runs scripts on the kernel; outcomes in their order. */
export async function runTheirs(program: string, scripts: readonly Script[]): Promise<string[][]> {
  const child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const closed = new Promise(resolve => child.on('close', resolve));
  child.stdin.end(scripts.map(script => `${formatScript(script)}\n`).join(''));
  await closed;
  const lines = Buffer.concat(chunks).toString().split('\n');
  return scripts.map((_, i) => (lines[i] ?? '').split(';').slice(0, -1));
}

/** The first step on which the two sides differ for no known reason. */
type Difference = { step: number; theirs: string; ours: string };

export class Comparison {
  readonly #program: string;
  readonly #ours: Ours;
  /** How often each known difference was met. */
  readonly explained = new Map<KnownDifference, number>();

  /** Differences that two more runs of the script didn't show. */
  unrepeatable = 0;

  constructor(program: string, ours = new Ours()) {
    this.#ours = ours;
    this.#program = program;
  }

  async run(scripts: readonly Script[]): Promise<(Difference | undefined)[]> {
    const theirs = await runTheirs(this.#program, scripts);
    return scripts.map((script, i) => this.#compare(script, theirs[i]!, this.#ours.run(script)));
  }

  #compare(script: Script, theirs: readonly string[], ours: readonly string[]): Difference | undefined {
    const length = Math.max(script.length, ours.length);
    for (let step = 0; step < length; step++) {
      const [a, b] = [theirs[step] ?? '(nothing)', ours[step] ?? '(nothing)'];
      if (a === b) continue;
      const known = explain(script, step, a, ours);
      if (known === undefined) return { step, theirs: a, ours: b };
      this.explained.set(known, (this.explained.get(known) ?? 0) + 1);
      if (known.ends) return undefined;
    }
    return undefined;
  }
}

/**
 * A script with threads may differ once because the machine was slow. What two more runs don't show again is
 * told, and not counted.
 */
const isRepeatable = async (
  comparison: Comparison,
  script: Script,
  seen: Difference,
  o: LinuxOptions,
): Promise<boolean> => {
  const again = await comparison.run([script, script]);
  if (again.some(difference => difference !== undefined)) return true;
  if (comparison.unrepeatable++ >= SHOWN) return false;
  o.print(`differed once, and not again in two runs, at step ${seen.step}: ${formatScript(script)}`);
  o.print(`    linux ${seen.theirs}`);
  o.print(`    ours  ${seen.ours}`);
  return false;
};

const show = async (comparison: Comparison, script: Script, o: LinuxOptions): Promise<void> => {
  const differ = async (scripts: readonly { items: Script }[]) =>
    (await comparison.run(scripts.map(c => c.items))).map(difference => difference !== undefined);
  const { items } = await shrink(differ, { items: script });
  const [difference] = await comparison.run([items]);
  o.print(`differs, ${items.length} of ${script.length} steps left:`);
  o.print(`  npm run conformance -- linux --script '${formatScript(items)}'`);
  if (difference === undefined) o.print('  (equal when run again)');
  else {
    o.print(`  step ${difference.step}: ${formatScript(items.slice(difference.step, difference.step + 1))}`);
    o.print(`    linux ${difference.theirs}`);
    o.print(`    ours  ${difference.ours}`);
  }
};

export const randomScripts = (r: Random, count: number): Script[] =>
  Array.from({ length: count }, () => new Generator(r).script(LENGTH_MIN + r.below(LENGTH_SPREAD)));

/** Returns how many scripts differ without a reason. What the machine can't be asked is told as not run. */
export async function runLinux(program: string, o: LinuxOptions, here = probe(program)): Promise<number> {
  const comparison = new Comparison(program);
  const r = new Random(o.seed);
  const why = whyNoUserfault(here);
  let differences = 0;
  let notRun = 0;
  for (let done = 0; done < o.scripts && differences < SHOWN; done += BATCH) {
    const count = Math.min(BATCH, o.scripts - done);
    const made = randomScripts(r, count);
    const scripts = why === undefined ? made : made.filter(script => !needsUserfault(script));
    notRun += made.length - scripts.length;
    for (const [i, difference] of (await comparison.run(scripts)).entries()) {
      if (difference === undefined || !(await isRepeatable(comparison, scripts[i]!, difference, o))) continue;
      if (++differences <= SHOWN) await show(comparison, scripts[i]!, o);
    }
  }
  for (const [{ name, reason }, count] of comparison.explained)
    o.print(`known difference, ${count} times: ${name}: ${reason}`);
  if (notRun > 0) o.print(`linux: ${notRun} scripts with user faults: not run: ${why}`);
  if (comparison.unrepeatable > 0) o.print(`${comparison.unrepeatable} scripts differed once and not again`);
  return differences;
}

/** Runs one script that was pasted, and prints both sides of every step. */
export async function runOneScript(
  program: string,
  text: string,
  print: (line: string) => void,
): Promise<number> {
  const script = parseScript(text);
  const why = whyNoUserfault(probe(program));
  if (why !== undefined && needsUserfault(script)) {
    print(`linux: not run: ${why}`);
    return 0;
  }
  const [theirs] = await runTheirs(program, [script]);
  const ours = new Ours().run(script);
  const [difference] = await new Comparison(program).run([script]);
  for (let i = 0; i < Math.max(script.length, ours.length); i++) {
    print(`${i}  ${i < script.length ? formatScript(script.slice(i, i + 1)) : ''}`);
    print(`    linux ${theirs![i] ?? '(nothing)'}`);
    if (ours[i] !== theirs![i]) print(`    ours  ${ours[i] ?? '(nothing)'}`);
  }
  return difference === undefined ? 0 : 1;
}
