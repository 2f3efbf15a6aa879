import { assert } from '../base/assert.ts';
import { FaultlineError } from '../base/error.ts';
import { MIB } from '../base/units.ts';
import { fillRandom } from '../host/world.ts';
import { ensureImage, type OpenImage } from '../image/images.ts';
import { bootPage, planBoot } from '../machine/boot.ts';
import type { CpuStat } from '../machine/host.ts';
import type { MachineEnd } from '../machine/run-loop.ts';
import { AgentClient } from './agent-client.ts';
import { Commands } from './commands.ts';
import type { Driver, DriverEvents, Launch } from './driver.ts';
import type { Host } from './host.ts';
import { Memory } from './memory.ts';
import { hartsOf, type SandboxOptions, type Sizes, sizesOf } from './options.ts';
import { standBy, standDown } from './standby.ts';
import { privateHost, start } from './start-guest.ts';
import type { FaultHandler } from './userfault.ts';

/** Bytes of console kept to explain a guest that died. */
const CONSOLE_TAIL = 4096;
const DEFAULT_MEMORY = 256 * MIB;

type Parts = { driver: Driver; agent: AgentClient; tail: ConsoleTail; host: Host; ownsHost: boolean } & {
  initial?: ((address: number) => Uint8Array) | undefined;
};

/**
 * A running Linux. `create` boots an image and resolves when commands can run; `kill` ends it.
 *
 *     const vm = await Sandbox.create('tiny', { memory: '256M', memoryLimit: '64M' });
 *     console.log((await vm.commands.run('uname -m')).stdout);
 *     await vm.kill();
 */
export class Sandbox implements AsyncDisposable {
  readonly commands: Commands;
  readonly memory: Memory;
  readonly #driver: Driver;
  readonly #host: Host;
  readonly #agent: AgentClient;
  readonly #console: ConsoleTail;
  /** Resolves when the machine has ended. */
  readonly #over: Promise<void>;
  /** Resolves when all that was its own has been given back. */
  readonly #gone: Promise<void>;
  /** Why commands can't run any more. */
  #end: FaultlineError | undefined;

  private constructor({ driver, agent, tail, host, ownsHost, initial }: Parts) {
    this.#driver = driver;
    this.#host = host;
    this.#agent = agent;
    this.#console = tail;
    this.commands = new Commands(agent);
    this.memory = new Memory(host.machineHost, driver, initial);
    const over = (error: FaultlineError) => {
      this.#end = error;
      agent.close(error);
    };
    this.#over = driver.ended.then(
      end => over(this.failure(end)),
      (error: unknown) => over(asFaultline(error)),
    );
    this.#gone = this.#over
      .finally(() => this.memory.close())
      .then(() => (ownsHost ? host.close() : undefined));
  }

  /** Boots an image, building it first if it is known and missing. Throws FaultlineError. */
  static async create(image?: string | SandboxOptions, options: SandboxOptions = {}): Promise<Sandbox> {
    const o = typeof image === 'string' ? { ...options, image } : { ...image, ...options };
    const vm = await Sandbox.launch(o);
    try {
      await vm.ready(o);
    } catch (error) {
      await vm.kill();
      throw error;
    }
    return vm;
  }

  /** Starts the machine and returns at once: what the command line uses for consoles. */
  static async launch(options: SandboxOptions): Promise<Sandbox> {
    const hasWorker = options.host === undefined && options.runners !== 0;
    if (hasWorker) standBy();
    try {
      return await Sandbox.#launch(options);
    } catch (error) {
      if (hasWorker) standDown();
      throw error;
    }
  }

  static async #launch(options: SandboxOptions): Promise<Sandbox> {
    const progress = options.onProgress === undefined ? {} : { onProgress: options.onProgress };
    const image = await ensureImage(options.image ?? 'tiny', {
      ...progress,
      pristine: options.pristine ?? false,
    });
    try {
      return await Sandbox.#start(image, options);
    } finally {
      image.close();
    }
  }

  static async #start(image: OpenImage, options: SandboxOptions): Promise<Sandbox> {
    const sizes = sizesOf(options, image.manifest.defaultMemory ?? DEFAULT_MEMORY);
    const host = options.host ?? privateHost(sizes, options);
    try {
      return Sandbox.#inHost(host, launchOf(image, sizes, options), options);
    } catch (error) {
      if (options.host === undefined) await host.close();
      throw error;
    }
  }

  static #inHost(host: Host, launch: Launch, options: SandboxOptions): Sandbox {
    const tail = new ConsoleTail();
    let driver: Driver | undefined;
    const agent = new AgentClient(bytes => driver?.send('agent', bytes));
    const events: DriverEvents = {
      console(bytes) {
        tail.push(bytes);
        options.onConsole?.(bytes);
      },
      agent: bytes => agent.receive(bytes),
    };
    const supplied = options.userfault === undefined ? undefined : suppliedBy(launch);
    driver = start(host, supplied?.launch ?? launch, events);
    const parts = { driver, agent, tail, host, ownsHost: options.host === undefined };
    const vm = new Sandbox({ ...parts, initial: supplied?.initial });
    if (options.userfault !== undefined) void vm.#supply(options.userfault);
    return vm;
  }

  /** All of RAM comes from a handler; only then the guest begins. */
  async #supply(handler: FaultHandler): Promise<void> {
    try {
      await this.#driver.made;
      await this.memory.userfault(this.memory.ram, handler);
      this.#driver.go();
    } catch (error) {
      this.#driver.fail(error as Error);
    }
  }

  /** Resolves when the guest serves commands. Throws E_TIMEOUT, E_GUEST_PANIC and what else ends a boot. */
  async ready(options: { timeoutMs?: number; signal?: AbortSignal } = {}): Promise<void> {
    await Promise.race(
      [this.#agent.ready, timeout(options.timeoutMs), aborted(options.signal)].filter(p => p !== undefined),
    );
  }

  /** Resolves with how the machine ended; rejects if our own code failed. */
  get ended(): Promise<MachineEnd> {
    return this.#driver.ended;
  }

  /** How an end reads to people. */
  failure(end: MachineEnd): FaultlineError {
    return (end.kind === 'out-of-memory' && this.memory.failure) || endError(end, this.#console.text());
  }

  /** What the guest's CPU has done since it was made; undefined before that, and when its memory is gone. */
  cpuStat(): CpuStat | undefined {
    const guest = this.#driver.guest();
    return guest && this.#host.machineHost.cpuStat(guest.vm);
  }

  /** What the guest last wrote to its console. */
  get consoleTail(): string {
    return this.#console.text();
  }

  /** Types on the guest's console. */
  writeConsole(bytes: Uint8Array): void {
    this.#driver.send('console', bytes);
  }

  /**
   * Stops the guest where it is: once this resolves no hart retires an instruction and no device touches memory until
   * `resume`. Its time stands still, so no timer of it is late; only its RTC goes on (`hwclock -s`). Timeouts of this
   * side, such as a command's, go on. What is sent to it waits, as `commands.run` does; its memory can be looked at,
   * reclaimed and limited. Twice is once. Throws what ended the guest, if it has ended.
   */
  async pause(): Promise<void> {
    await this.#unlessOver(() => this.#driver.pause());
  }

  /** Lets a paused guest go on; nothing happens to one that runs. Throws what ended the guest, if it has ended. */
  async resume(): Promise<void> {
    await this.#unlessOver(() => this.#driver.resume());
  }

  async #unlessOver(work: () => Promise<void>): Promise<void> {
    if (this.#end === undefined) {
      await Promise.race([this.#driver.made.then(work, () => this.#over), this.#over]);
    }
    if (this.#end !== undefined) throw this.#end;
  }

  /** Asks the guest to power off, paused or not, and pulls the plug if it has not after `graceMs`. */
  async shutdown(graceMs = 5000): Promise<void> {
    if (this.#end === undefined) {
      await this.resume().catch(() => {});
      this.#agent.powerOff();
    }
    await Promise.race([this.#driver.ended.catch(() => {}), sleep(graceMs)]);
    await this.kill();
  }

  /** Pulls the plug. */
  async kill(): Promise<void> {
    this.#driver.stop();
    await this.#gone;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

const launchOf = (image: OpenImage, sizes: Sizes, options: SandboxOptions): Launch => ({
  machine: {
    memoryBytes: sizes.memoryBytes,
    ...(sizes.limitBytes === undefined ? {} : { memoryLimitBytes: sizes.limitBytes }),
    commandLine: [options.cmdline ?? image.commandLine, options.append].filter(Boolean).join(' '),
    clock: options.clock ?? 'real',
    ...hartsOf(options),
    balloon: options.balloon !== 'off',
    ...(options.ksm === undefined || options.ksm === 'off' ? {} : { ksm: options.ksm }),
    ...(options.seed === undefined && options.clock !== 'instret' ? {} : { seed: options.seed ?? 1 }),
    ...(options.blockedOneIn === undefined ? {} : { blockedOneIn: options.blockedOneIn }),
  },
  files: { kernel: image.kernel(), initrd: image.initramfs() },
  disks: image.manifest.disk === undefined ? [] : [`${image.directory}/${image.manifest.disk.file}`],
  agent: true,
  keepMemory: options.host === undefined,
});

/** The same machine with empty RAM, and what would have been in it. */
function suppliedBy(launch: Launch): { launch: Launch; initial: (address: number) => Uint8Array } {
  assert('kernel' in launch.files, 'userfault: a machine with a kernel');
  const seed = new Uint8Array(64);
  fillRandom(seed);
  const plan = planBoot(launch.files, launch.machine, seed);
  const entered: Launch = { ...launch, files: { entry: plan.entry }, waits: true };
  return { launch: entered, initial: address => bootPage(plan, address) };
}

/** The last of what a console printed. */
class ConsoleTail {
  #text = '';
  readonly #decoder = new TextDecoder();

  push(bytes: Uint8Array): void {
    this.#text = (this.#text + this.#decoder.decode(bytes, { stream: true })).slice(-CONSOLE_TAIL);
  }

  text(): string {
    return this.#text;
  }
}

/** Why commands can't run any more, as an error for people. */
export function endError(end: MachineEnd, consoleTail: string): FaultlineError {
  const panic = /Kernel panic[^\r\n]*/.exec(consoleTail)?.[0];
  if (end.kind === 'out-of-memory') {
    return new FaultlineError('E_OUT_OF_MEMORY', end.detail ?? 'no memory is left for the guest', {
      hint: 'a larger --memory-limit, or --swap zram:SIZE, or --swap file:PATH',
    });
  }
  if (panic !== undefined)
    return new FaultlineError('E_GUEST_PANIC', `the guest panicked: ${panic}`, {
      hint: '--console shows what it printed',
    });
  if (end.kind === 'guest-failed' || end.kind === 'reboot') {
    return new FaultlineError('E_GUEST_PANIC', 'the guest gave up', {
      hint: '--console shows what it printed',
    });
  }
  return new FaultlineError('E_AGENT', 'the guest has powered off');
}

export function asFaultline(error: unknown): FaultlineError {
  if (error instanceof FaultlineError) return error;
  const e = error as { code?: FaultlineError['code']; message?: string; hint?: string };
  const options = { cause: error, ...(e.hint === undefined ? {} : { hint: e.hint }) };
  return new FaultlineError(
    e.code?.startsWith('E_') ? e.code : 'E_INTERNAL',
    e.message ?? String(error),
    options,
  );
}

const sleep = (ms: number): Promise<void> =>
  new Promise(resolve => {
    setTimeout(resolve, ms).unref();
  });

function timeout(ms: number | undefined): Promise<never> | undefined {
  if (ms === undefined) return undefined;
  return sleep(ms).then(() => {
    throw new FaultlineError('E_TIMEOUT', `the guest did not come up within ${ms} ms`, {
      hint: '--console shows how far it came',
    });
  });
}

function aborted(signal: AbortSignal | undefined): Promise<never> | undefined {
  if (signal === undefined) return undefined;
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}
