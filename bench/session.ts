import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { atInterrupt } from './interrupt.ts';

/** What busybox's shell sends to learn where the cursor is. */
const ESCAPE = String.fromCharCode(27);
const ASK_CURSOR = `${ESCAPE}[6n`;
/** A root shell's prompt is the last that was printed. */
export const PROMPT = /\n[^\n]*# $/;
/** How much of what was printed an error shows. */
const TAIL = 300;

/** A program on pipes, watched for what it prints. It ends with `stop`, or with this process on ctrl-C. */
export class Session {
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #started = performance.now();
  readonly #forget: () => void;
  #text = '';
  /** The beginning of an escape sequence whose rest has not come yet. */
  #held = '';
  #seen = 0;
  #over: string | undefined;
  #check: (() => void) | undefined;

  constructor(command: string, args: readonly string[]) {
    this.#name = command;
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#forget = atInterrupt(() => this.#child.kill('SIGKILL'));
    this.#child.stdin!.on('error', () => {});
    this.#child.stdout!.on('data', (bytes: Buffer) => {
      this.#take(bytes.toString('latin1'));
      this.#check?.();
    });
    this.#child.on('error', error => this.#end(error.message));
    this.#child.on('exit', code => this.#end(`${this.#name} ended with ${code}`));
  }

  get pid(): number {
    return this.#child.pid!;
  }

  #end(why: string): void {
    this.#over ??= why;
    this.#check?.();
  }

  #take(text: string): void {
    const whole = (this.#held + text).replaceAll(ASK_CURSOR, '');
    const last = whole.lastIndexOf(ESCAPE);
    const cut = last >= 0 && ASK_CURSOR.startsWith(whole.slice(last)) ? last : whole.length;
    this.#text += whole.slice(0, cut);
    this.#held = whole.slice(cut);
  }

  type(text: string): void {
    this.#child.stdin!.write(text);
  }

  /** Resolves when `pattern` has been printed, with the seconds since the start; rejects at the end or limit. */
  async until(pattern: RegExp, limitSeconds: number): Promise<number> {
    await this.next(pattern, limitSeconds);
    return (performance.now() - this.#started) / 1000;
  }

  /** The first match in what was printed since the last one. Rejects at the program's end or the limit. */
  next(pattern: RegExp, limitSeconds: number): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const fail = (why: string) => {
        this.#check = undefined;
        reject(new Error(`${why}; last: ${this.#text.slice(-TAIL)}`));
      };
      const timer = setTimeout(() => fail(`no ${pattern} within ${limitSeconds} s`), limitSeconds * 1000);
      this.#check = () => {
        const match = pattern.exec(this.#text.slice(this.#seen));
        if (match === null && this.#over === undefined) return;
        clearTimeout(timer);
        if (match === null) return fail(this.#over!);
        this.#check = undefined;
        this.#seen += match.index + match[0].length;
        resolve(match);
      };
      this.#check();
    });
  }

  /** Seconds of processor time of all its threads. Linux only. */
  cpuSeconds(): number {
    return cpuSeconds(this.pid);
  }

  stop(): Promise<void> {
    this.#forget();
    return new Promise(resolve => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null || this.#child.pid === undefined)
        return resolve();
      this.#child.on('exit', () => resolve());
      this.#child.kill('SIGKILL');
    });
  }
}

/** Seconds of processor time of the threads that a process has. Linux only. */
export function cpuSeconds(pid: number): number {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    try {
      nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // It ended between the two calls.
    }
  }
  return nanoseconds / 1e9;
}
