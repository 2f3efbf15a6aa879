import { readFileSync, writeFileSync } from 'node:fs';
import { FaultlineError } from '../base/error.ts';
import { keepCompiled } from '../host/node/keep-compiled.ts';
import { publishStats } from '../host/node/stats-socket.ts';
import type { AgentProcess } from '../sdk/agent-client.ts';
import { runBare } from '../sdk/bare.ts';
import type { SandboxOptions } from '../sdk/options.ts';
import { Sandbox } from '../sdk/sandbox.ts';
import { addFile } from './add-file.ts';
import { Progress } from './report.ts';
import { attachTerminal } from './terminal.ts';

export type RunFlags = {
  interactive?: boolean;
  tty?: boolean;
  memory?: string;
  memoryLimit?: string;
  swap?: string;
  ksm?: 'off' | 'self' | 'same-owner';
  balloon?: 'off' | 'free-page-reporting';
  cpus?: number;
  runners?: number;
  clock?: 'real' | 'instret';
  seed?: number;
  append?: string;
  cmdline?: string;
  pristine?: boolean;
  add: string[];
  env: string[];
  workdir?: string;
  bare?: string;
  stats?: string;
  timeout?: number;
  console?: boolean;
  blockedOneIn?: number;
  break: string[];
  quiet?: boolean;
};

const TIMED_OUT = 124;
const INTERRUPTED = 130;
/** When all is compiled that a start needs. */
const KEEP_MS = 500;
/** 24 days; a longer one would ring at once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** `faultline run`: boots, runs, ends; returns the exit code. */
export async function run(image: string | undefined, command: string[], flags: RunFlags): Promise<number> {
  if (flags.bare !== undefined) return bare(flags.bare, flags);
  const argv = command[0] === '--' ? command.slice(1) : command;
  const progress = new Progress(flags.quiet ?? false);
  const vm = await Sandbox.launch(options(image, argv.length === 0, flags, progress));
  // This thread has nothing to do while the guest boots.
  setTimeout(keepCompiled, KEEP_MS).unref();
  const interrupt = new Interrupt();
  const unpublish = publishStats(() => ({ ...vm.memory.stat(), cpu: vm.cpuStat() }));
  try {
    const ended =
      argv.length === 0 ? consoleSession(vm, progress) : commandSession(vm, argv, flags, progress, interrupt);
    return await Promise.race([ended, interrupt.code, timeLimit(flags.timeout)]);
  } finally {
    progress.done();
    unpublish();
    interrupt.stop();
    try {
      if (flags.stats !== undefined) writeStats(flags.stats, vm);
    } finally {
      await vm.kill();
    }
  }
}

function writeStats(file: string, vm: Sandbox): void {
  try {
    writeFileSync(file, `${JSON.stringify(vm.memory.counters(), null, 2)}\n`);
  } catch (cause) {
    if ((cause as { syscall?: string }).syscall === undefined) throw cause;
    throw new FaultlineError('E_IO', `--stats: ${file} cannot be written`, { cause });
  }
}

function options(
  image: string | undefined,
  shell: boolean,
  flags: RunFlags,
  progress: Progress,
): SandboxOptions {
  const { add: _add, env: _env, bare: _bare, break: breaks, ...rest } = flags;
  const append = [flags.append, shell ? 'faultline.console=shell' : undefined].filter(Boolean).join(' ');
  const show = shell ? process.stdout : flags.console ? process.stderr : undefined;
  return {
    ...rest,
    breaks,
    image: image ?? 'tiny',
    append,
    onProgress: text => progress.update(text),
    ...(show === undefined
      ? {}
      : {
          onConsole(bytes: Uint8Array) {
            progress.done();
            show.write(bytes);
          },
        }),
  };
}

/** No command: this terminal becomes the guest's console until it powers off. */
async function consoleSession(vm: Sandbox, progress: Progress): Promise<number> {
  progress.update('booting; the shell is on the console, `poweroff` or ctrl-] leaves');
  const terminal = attachTerminal(bytes => vm.writeConsole(bytes));
  try {
    const end = await Promise.race([vm.ended, terminal.left.then(() => undefined)]);
    if (end === undefined || end.kind === 'shutdown' || end.kind === 'stopped') return 0;
    throw vm.failure(end);
  } finally {
    terminal.detach();
  }
}

async function commandSession(
  vm: Sandbox,
  argv: string[],
  flags: RunFlags,
  progress: Progress,
  interrupt: Interrupt,
): Promise<number> {
  progress.update('booting');
  await vm.ready();
  for (const pair of flags.add) await addFile(vm, pair);
  progress.done();
  const terminal = flags.tty
    ? { rows: process.stdout.rows ?? 24, columns: process.stdout.columns ?? 80 }
    : undefined;
  const guest = vm.commands.start(
    argv,
    {
      ...(flags.workdir === undefined ? {} : { cwd: flags.workdir }),
      env: environment(flags.env),
      ...(terminal === undefined ? {} : { terminal }),
    },
    bytes => process.stdout.write(bytes),
    bytes => process.stderr.write(bytes),
  );
  interrupt.handOn(guest);
  const detach = connectInput(guest, flags);
  try {
    const exit = await guest.exit;
    if (guest.failure !== undefined) process.stderr.write(`faultline: ${notStarted(guest.failure)}\n`);
    return exit.code;
  } finally {
    detach();
  }
}

const REASONS: Record<number, string> = { 2: 'not found', 8: 'not a program', 13: 'permission denied' };

/** Why the guest could not start the command. `what` is the thing that failed: the program, or a directory. */
function notStarted({ what, errno }: { what: string; errno: number }): string {
  return `${what}: ${REASONS[errno] ?? 'could not be started'} (errno ${errno})`;
}

function connectInput(guest: AgentProcess, flags: RunFlags): () => void {
  if (flags.tty) {
    const onBytes = (bytes: Uint8Array) => void guest.write(bytes);
    const terminal = attachTerminal(onBytes, { endOfInput: true });
    const resize = () => guest.resize(process.stdout.rows ?? 24, process.stdout.columns ?? 80);
    process.stdout.on('resize', resize);
    return () => {
      process.stdout.off('resize', resize);
      terminal.detach();
    };
  }
  if (!flags.interactive) {
    guest.closeInput();
    return () => {};
  }
  // The guest's window is the back-pressure: reading waits until it has taken what was read.
  const onData = (bytes: Buffer) => {
    process.stdin.pause();
    void guest.write(bytes).then(() => process.stdin.resume());
  };
  const onEnd = () => guest.closeInput();
  process.stdin.on('data', onData).on('end', onEnd);
  return () => {
    process.stdin.off('data', onData).off('end', onEnd).pause();
  };
}

function environment(pairs: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map(pair => {
      const equals = pair.indexOf('=');
      return equals < 0 ? [pair, process.env[pair] ?? ''] : [pair.slice(0, equals), pair.slice(equals + 1)];
    }),
  );
}

function timeLimit(seconds: number | undefined): Promise<number> {
  return new Promise(resolve => {
    if (seconds === undefined) return;
    setTimeout(
      () => {
        process.stderr.write(
          `faultline: error: still running after ${seconds} s   (code E_TIMEOUT)\n    try: a larger --timeout\n`,
        );
        resolve(TIMED_OUT);
      },
      Math.min(seconds * 1000, LONGEST_TIMER_MS),
    ).unref();
  });
}

/** Ctrl-C: first to the guest's command, the second time the plug. */
class Interrupt {
  readonly code: Promise<number>;
  readonly #onSignal: () => void;
  #guest: AgentProcess | undefined;
  #count = 0;

  constructor() {
    let settle!: (code: number) => void;
    this.code = new Promise(resolve => {
      settle = resolve;
    });
    this.#onSignal = () => {
      if (this.#guest === undefined || this.#count++ > 0) settle(INTERRUPTED);
      else this.#guest.kill(2);
    };
    process.on('SIGINT', this.#onSignal);
    process.on('SIGTERM', this.#onSignal);
  }

  handOn(guest: AgentProcess): void {
    this.#guest = guest;
  }

  stop(): void {
    process.off('SIGINT', this.#onSignal);
    process.off('SIGTERM', this.#onSignal);
  }
}

async function bare(file: string, flags: RunFlags): Promise<number> {
  let elf: Uint8Array;
  try {
    elf = readFileSync(file);
  } catch (cause) {
    throw new FaultlineError('E_USAGE', `--bare: ${file} cannot be read`, { cause });
  }
  const { add: _add, env: _env, break: breaks, ...rest } = flags;
  const over = new AbortController();
  const running = runBare(elf, { ...rest, breaks, signal: over.signal }, bytes =>
    process.stdout.write(bytes),
  );
  try {
    return await Promise.race([running, timeLimit(flags.timeout)]);
  } finally {
    over.abort();
  }
}
