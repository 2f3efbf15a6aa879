import { FaultlineError } from '../base/error.ts';
import type { AgentClient, AgentExit, AgentProcess } from './agent-client.ts';
import { DEFAULT_ENVIRONMENT } from './agent-client.ts';

export type RunOptions = {
  cwd?: string;
  env?: Record<string, string>;
  stdin?: string | Uint8Array;
  /** After this the command is killed; a guest that does not answer that either is E_TIMEOUT, soon after. */
  timeoutMs?: number;
  /** Bytes of each stream that the result keeps; the rest is only given to the callbacks. */
  maxOutputBytes?: number;
  onStdout?(bytes: Uint8Array): void;
  onStderr?(bytes: Uint8Array): void;
};

export type CommandResult = {
  /** The command's; 128 + n if signal n ended it. */
  exitCode: number;
  signal: number;
  stdout: string;
  stderr: string;
  truncated: boolean;
  durationMs: number;
};

const KEEP = 16 * 1024 * 1024;
const SIGKILL = 9;

/** Runs commands in the guest. */
export class Commands {
  readonly #agent: AgentClient;

  constructor(agent: AgentClient) {
    this.#agent = agent;
  }

  /** Runs to the end. Text goes to the guest's `sh -c`; a list is run as it is. Throws if the guest goes away. */
  async run(command: string | readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    const argv = typeof command === 'string' ? ['/bin/sh', '-c', command] : [...command];
    const out = new Kept(options.maxOutputBytes ?? KEEP, options.onStdout);
    const err = new Kept(options.maxOutputBytes ?? KEEP, options.onStderr);
    const start = performance.now();
    const process = this.start(
      argv,
      options,
      bytes => out.push(bytes),
      bytes => err.push(bytes),
    );
    if (options.stdin !== undefined) void process.write(toBytes(options.stdin));
    process.closeInput();
    const exit = await within(process, options.timeoutMs);
    return {
      exitCode: exit.code,
      signal: exit.signal,
      stdout: out.text(),
      stderr: err.text(),
      truncated: out.truncated || err.truncated,
      durationMs: performance.now() - start,
    };
  }

  /** Starts a command whose input stays open. */
  start(
    argv: readonly string[],
    options: Pick<RunOptions, 'cwd' | 'env'> & { terminal?: { rows: number; columns: number } | undefined },
    stdout: (bytes: Uint8Array) => void,
    stderr: (bytes: Uint8Array) => void,
  ): AgentProcess {
    const variables = Object.entries({ ...DEFAULT_ENVIRONMENT, ...options.env });
    const request = {
      argv,
      env: variables.map(([name, value]) => `${name}=${value}`),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.terminal === undefined ? {} : { tty: options.terminal }),
    };
    return this.#agent.exec(request, { stdout, stderr });
  }
}

/** How long a guest may take to say that it has killed a command. */
const KILL_MS = 2000;

/** The command's end, which is forced after `ms`. Throws E_TIMEOUT when the guest does not even do that. */
async function within(process: AgentProcess, ms: number | undefined): Promise<AgentExit> {
  if (ms === undefined) return process.exit;
  const timers: NodeJS.Timeout[] = [];
  const after = (delay: number, work: () => void) => timers.push(setTimeout(work, delay));
  const hung = new Promise<never>((_, reject) => {
    after(ms, () => {
      process.kill(SIGKILL);
      after(KILL_MS, () =>
        reject(
          new FaultlineError(
            'E_TIMEOUT',
            `the guest does not answer, ${KILL_MS} ms after its command's time`,
            {
              hint: 'a larger timeoutMs, or kill() the guest',
            },
          ),
        ),
      );
    });
  });
  return Promise.race([process.exit, hung]).finally(() => {
    for (const timer of timers) clearTimeout(timer);
  });
}

const toBytes = (input: string | Uint8Array): Uint8Array =>
  typeof input === 'string' ? new TextEncoder().encode(input) : input;

/** The first so many bytes of a stream. */
class Kept {
  readonly #max: number;
  readonly #also: ((bytes: Uint8Array) => void) | undefined;
  readonly #chunks: Uint8Array[] = [];
  #length = 0;
  truncated = false;

  constructor(max: number, also: ((bytes: Uint8Array) => void) | undefined) {
    this.#max = max;
    this.#also = also;
  }

  push(bytes: Uint8Array): void {
    this.#also?.(bytes);
    const room = this.#max - this.#length;
    if (bytes.length > room) this.truncated = true;
    const kept = bytes.subarray(0, Math.max(0, room));
    this.#chunks.push(kept);
    this.#length += kept.length;
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString('utf8');
  }
}
