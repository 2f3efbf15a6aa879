import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface, type Interface } from 'node:readline';

/** What the kernel did beside racing scripts. */
export type Beside = { swappedOut: number; sharing: number; cow: number };

/** Why the machine won't have what was asked, in words for the report. */
export type Refusal = { why: string };

/**
 * Swap and ksmd of this machine, on while racing scripts run: the program of conditions.c, which puts all back when
 * this process ends, whichever way.
 */
export class Conditions {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  readonly #lines: Interface;

  /** Where swap is made in a file, it lies in `folder`. */
  constructor(program: string, folder: string) {
    this.#child = spawn(program, [folder], { stdio: ['pipe', 'pipe', 'inherit'] });
    // A program that could not be started answers nothing, which is a refusal.
    this.#child.on('error', () => {});
    this.#child.stdin!.on('error', () => {});
    this.#lines = createInterface({ input: this.#child.stdout! });
    this.#answers = this.#lines[Symbol.asyncIterator]();
  }

  async #ask(line: string): Promise<string> {
    this.#child.stdin!.write(`${line}\n`);
    const { value, done } = await this.#answers.next();
    return done ? 'refused the program that sets it up has ended' : value;
  }

  /** Turns swap and ksmd on; may wait for another run like this one. Tells where swap is, or why not. */
  async on(): Promise<{ area: string } | Refusal> {
    const [word, ...rest] = (await this.#ask('on')).split(' ');
    return word === 'on' ? { area: rest.join(' ') } : { why: rest.join(' ') };
  }

  async off(): Promise<Beside> {
    const [, swappedOut = 0, sharing = 0, cow = 0] = (await this.#ask('off')).split(' ').map(Number);
    return { swappedOut, sharing, cow };
  }

  /** Resolves once all is as it was. */
  async close(): Promise<void> {
    const gone = new Promise(resolve => this.#child.on('close', resolve));
    const runs = this.#child.exitCode === null && this.#child.pid !== undefined;
    this.#child.stdin!.end();
    if (runs) await gone;
    this.#lines.close();
  }
}

/** The same, started when first asked for; with what happened meanwhile added up. */
export class RaceConditions {
  readonly #program: string;
  readonly #folder: string;
  #conditions: Conditions | undefined;
  #total: Beside | undefined;

  constructor(program: string, folder: string) {
    this.#program = program;
    this.#folder = folder;
  }

  /** Why the machine refuses; undefined when it doesn't. */
  async why(): Promise<string | undefined> {
    this.#conditions ??= new Conditions(this.#program, this.#folder);
    const answer = await this.#conditions.on();
    if ('why' in answer) return answer.why;
    await this.#conditions.off();
    return undefined;
  }

  /** Throws when the machine refuses. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.#conditions ??= new Conditions(this.#program, this.#folder);
    const answer = await this.#conditions.on();
    if ('why' in answer) throw new Error(`racing scripts: ${answer.why}`);
    try {
      return await work();
    } finally {
      this.#add(await this.#conditions.off());
    }
  }

  #add({ swappedOut, sharing, cow }: Beside): void {
    const before = this.#total ?? { swappedOut: 0, sharing: 0, cow: 0 };
    this.#total = {
      swappedOut: before.swappedOut + swappedOut,
      sharing: Math.max(before.sharing, sharing),
      cow: before.cow + cow,
    };
  }

  report(): string[] {
    return this.#total === undefined ? [] : [besideLine('linux', this.#total)];
  }

  async close(): Promise<void> {
    await this.#conditions?.close();
    this.#conditions = undefined;
  }
}

export const besideLine = (who: string, { swappedOut, sharing, cow }: Beside): string =>
  `beside racing scripts, ${who}: ${swappedOut} pages swapped out, ${sharing} shared by KSM at most, ${cow} of those written to`;
