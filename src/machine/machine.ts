import { Random } from '../base/random.ts';
import type { VcpuPtr } from '../cpu/interface.ts';
import type { BlockBackend } from '../devices/interface.ts';
import type { BalloonPorts } from '../devices/virtio-balloon.ts';
import { VmMemory } from '../kvm/guest-memory.ts';
import { GUP_SIGBUS } from '../mm/fault-codes.ts';
import type { Ptr } from '../sync/struct.ts';
import { Board, type Channel } from './board.ts';
import { type BootFiles, load, planBoot } from './boot.ts';
import { instretClock, type MachineClock, realClock } from './clock.ts';
import { type BareProgram, loadElf } from './elf.ts';
import type { RunnerShare } from './hart-runner.ts';
import { Harts, NEVER } from './harts.ts';
import type { Guest, Host } from './host.ts';
import { irqchipPorts, irqchipWords } from './irqchip.ts';
import { RAM_BASE } from './memory-map.ts';
import { Pauses } from './pause.ts';
import { sbiPorts } from './sbi-ports.ts';
import { type FaultPorts, type Step, VcpuLoop } from './vcpu-loop.ts';

/** What a machine is made of; plain data, so that it can be sent to a worker. */
export type MachineConfig = {
  memoryBytes: number;
  /** Pages of the VM that may be in frames at once; unlimited when absent. */
  memoryLimitBytes?: number;
  /** Guests of one owner may share pages by content; the Host's own unless told. */
  owner?: number;
  /** Harts; 1 unless told. */
  cpus?: number;
  /** Threads that run them, this one among them; the others are the driver's to start (HartRunner). 1 unless told. */
  runners?: number;
  /** Its pages are merged with equal ones: of its owner's guests, or its own alone. */
  ksm?: 'self' | 'same-owner';
  commandLine: string;
  clock: 'real' | 'instret';
  /** The guest has a balloon, by which it gives back what it does not use. */
  balloon?: boolean;
  /** Seeds the guest's random sources; the same seed, the same run. From the host when absent. */
  seed?: number;
  /** Test: one in so many page lookups is answered `blocked` though the page is there (design 6). */
  blockedOneIn?: number;
};

export type MachinePorts = {
  console(bytes: Uint8Array): void;
  agent?(bytes: Uint8Array): void;
  disks?: readonly BlockBackend[];
  /**
   * A page that nobody is asked for, by MADV_USERFAULT or UFFD_FEATURE_SIGBUS: fills it on this thread and
   * says true; false ends the machine (U-24).
   */
  userFault?(gpa: number, write: boolean): boolean;
  /** The guest says how large its balloon is, in bytes. */
  balloon?(bytes: number): void;
  /** The word that a runner's thread sleeps on; needed with several. This thread's own is 0's. */
  wake?(runner: number): number;
  /** By which the guest is paused, if it is ever; zeroed, and its owner's. */
  pause?: Ptr<'pause'>;
  monotonicMs(): number;
  epochSeconds: number;
  random(into: Uint8Array): void;
};

/** A board with one VM and its vCPUs, on one thread: load, then `step` until it says otherwise. */
export class Machine {
  readonly host: Host;
  readonly vm: Ptr<'vm'>;
  readonly mm: Ptr<'mm'>;
  /** The first hart's. */
  readonly vcpu: VcpuPtr;
  readonly harts: Harts;
  readonly memory: VmMemory;
  readonly board: Board;
  readonly clock: MachineClock;
  /** By hart. */
  readonly #loops: readonly VcpuLoop[];
  /** Those that this thread runs, and the others'. */
  readonly #own: readonly VcpuLoop[];
  readonly #others: readonly VcpuLoop[];
  readonly #ownHarts: readonly number[];
  readonly #runners: number;
  readonly #startMs: number;
  readonly #config: MachineConfig;
  readonly #ports: MachinePorts;
  readonly #random: (into: Uint8Array) => void;
  readonly #guest: Guest;
  /** Whose turn it is. */
  #turn = 0;
  #irqchip = 0;
  #running = false;
  #bare: BareProgram | undefined;

  constructor(host: Host, config: MachineConfig, ports: MachinePorts) {
    this.host = host;
    this.#config = config;
    this.#ports = ports;
    this.#random = config.seed === undefined ? ports.random : seededBytes(config.seed);
    const guest = host.createGuest({
      memoryBytes: config.memoryBytes,
      limitBytes: config.memoryLimitBytes,
      owner: config.owner,
      ksm: config.ksm,
      cpus: config.cpus,
    });
    this.#guest = guest;
    this.vm = guest.vm;
    this.mm = guest.mm;
    this.vcpu = guest.vcpus[0]!;
    this.harts = new Harts(host.kvm, host.cpu, guest.vcpus);
    this.memory = new VmMemory(host.kvm, this.vm, {
      blocked: this.#blocks(),
      sigbus: (gpa, write) => ports.userFault?.(gpa, write) ?? false,
    });
    host.blockFor(this.vm, this.#blocks());
    this.#startMs = ports.monotonicMs();
    this.#runners = config.clock === 'real' ? (config.runners ?? 1) : 1;
    this.clock = this.#makeClock();
    host.setClock(this.vm, this.clock);
    this.board = this.#makeBoard();
    this.#loops = this.harts.all.map(hart => this.#makeLoop(hart));
    this.#ownHarts = this.harts.all.filter(hart => hart % this.#runners === 0);
    this.#own = this.#ownHarts.map(hart => this.#loops[hart]!);
    this.#others = this.#loops.filter((_, hart) => hart % this.#runners !== 0);
    if (this.#runners > 1) this.harts.assign(hart => ports.wake!(hart % this.#runners));
  }

  #makeClock(): MachineClock {
    const { monotonicMs, epochSeconds, pause } = this.#ports;
    if (this.#config.clock === 'instret') return instretClock(() => this.harts.instret());
    const pauses = new Pauses(this.host.kvm);
    const lost = () => (pause === undefined ? 0 : pauses.lost(pause));
    return realClock(monotonicMs, epochSeconds, this.#startMs, lost);
  }

  #makeLoop(hart: number): VcpuLoop {
    const { host, harts, board, clock } = this;
    const console = {
      write: (bytes: Uint8Array) => this.#ports.console(bytes),
      read: () => new Uint8Array(0),
    };
    return new VcpuLoop({
      ...{ cpu: host.cpu, words: host.words, harts, hart, board, clock },
      sbi: sbiPorts(harts, { memory: this.memory, console }),
      faults: this.#faultPorts(),
    });
  }

  /** Host virtual address of guest RAM. */
  get hva(): number {
    return this.#guest.hva;
  }

  /** Puts a kernel, its initrd and a device tree into RAM and the vCPU at the kernel's entry. */
  boot(files: BootFiles): void {
    const seed = new Uint8Array(64);
    this.#random(seed);
    const plan = planBoot(files, this.#config, seed);
    for (const { gpa, bytes } of plan.pieces) load(this.memory, gpa, bytes);
    this.enter(plan.entry);
  }

  /** The first vCPU at a kernel's entry, where RAM holds, or will be found to hold, what a BootPlan says. */
  enter(entry: { pc: number; a1: number }): void {
    this.harts.powerOn(entry.pc, entry.a1);
  }

  /** Loads an ELF and enters it in S-mode, satp 0, a0 = hart id, SBI answered. The other harts are stopped. */
  bootBare(file: Uint8Array): void {
    this.#bare = loadElf(file, this.memory, { base: RAM_BASE, end: RAM_BASE + this.#config.memoryBytes });
    this.harts.powerOn(this.#bare.entry, 0);
  }

  /** For memory pressure: a guest that has nothing to do loses no time to anything (psi.ts). */
  setRunning(running: boolean): void {
    if (running === this.#running) return;
    this.#running = running;
    const { psi, layout } = this.host.mm;
    psi.running(layout.mm.memcg.get(this.mm), running ? 1 : -1);
  }

  /** A slice, or an exit, of the next hart that can run. */
  step(): Exclude<Step, 'away'> {
    const { board, clock } = this;
    if (board.blocked || board.nextDeadline() <= clock.now()) board.poll();
    for (const loop of this.#others) {
      const step = loop.isAway ? loop.serveHandoff() : 'idle';
      if (step !== 'idle' && step !== 'blocked' && step !== 'away') return step;
    }
    let outcome: 'idle' | 'blocked' = this.#others.some(loop => loop.isAway) ? 'blocked' : 'idle';
    for (let tried = 0; tried < this.#own.length; tried++) {
      const step = this.#own[this.#turn]!.step();
      this.#turn = (this.#turn + 1) % this.#own.length;
      if (step !== 'idle' && step !== 'blocked' && step !== 'away') return step;
      if (step === 'blocked') outcome = step;
    }
    return outcome === 'idle' ? this.#rest() : outcome;
  }

  /** No hart has anything to do: sleep, unless the clock can jump to what comes next. */
  #rest(): 'idle' | 'blocked' | 'ran' {
    const { board, clock } = this;
    // What a device waits for may be what the guest waits for.
    if (board.blocked) return 'blocked';
    const device = board.nextDeadline();
    const next = Math.min(
      this.harts.nextTimer(),
      device === Number.POSITIVE_INFINITY ? NEVER : Math.ceil(device / 100),
    );
    if (next === NEVER) return 'idle';
    return clock.skipTo(next) ? 'ran' : 'idle';
  }

  /** Milliseconds that an idle guest may sleep; Infinity when only input can wake it. */
  sleepMs(): number {
    const { clock, board } = this;
    const timer = this.harts.nextTimer(this.#ownHarts);
    const device = board.nextDeadline();
    const untilTimer = timer === NEVER ? Number.POSITIVE_INFINITY : clock.millisecondsUntil(timer);
    const untilDevice =
      device === Number.POSITIVE_INFINITY ? device : Math.max(0, (device - clock.now()) / 1e6);
    return Math.min(untilTimer, untilDevice);
  }

  /** True when a test has pages answered `blocked` though they are there. */
  get blocksAtRandom(): boolean {
    return this.#config.blockedOneIn !== undefined;
  }

  get runnable(): boolean {
    return this.#own.some(loop => loop.runnable);
  }

  /** Input for a channel; how much of it was taken. */
  receive(channel: Channel, bytes: Uint8Array): number {
    return this.board.receive(channel, bytes);
  }

  /** How much the guest's balloon shall take, in bytes; it follows in its own time. False without a balloon. */
  setBalloon(bytes: number): boolean {
    this.board.balloon?.setTarget(bytes);
    return this.board.balloon !== undefined;
  }

  /** What a bare program wrote to `tohost`; undefined as long as that is 0. The exit code is it >> 1. */
  tohost(): number | undefined {
    const at = this.#bare?.tohost;
    if (at === undefined) return undefined;
    const pin = this.memory.pin(at, 8, 'read');
    if (typeof pin === 'string') return undefined;
    const bytes = Uint8Array.from(pin.pieces.flatMap(piece => [...piece]));
    this.memory.unpin(pin);
    const low = new DataView(bytes.buffer).getUint32(0, true);
    return low === 0 ? undefined : low;
  }

  #makeBoard(): Board {
    const { host } = this;
    const harts = this.harts.vcpus.length;
    const irqchip = host.mm.heap.alloc(irqchipWords(harts));
    this.#irqchip = irqchip;
    const ports = this.#ports;
    return new Board({
      memory: this.memory,
      clock: this.clock,
      rng: this.#random,
      console: { write: bytes => ports.console(bytes) },
      ...(ports.agent === undefined ? {} : { agent: { write: (bytes: Uint8Array) => ports.agent!(bytes) } }),
      disks: ports.disks ?? [],
      ...(this.#config.balloon ? { balloon: this.#balloonPorts() } : {}),
      harts,
      ...irqchipPorts(host, this.harts, irqchip),
    });
  }

  #faultPorts(): FaultPorts {
    const { host } = this;
    const { uffdWaits } = host.mm;
    return {
      isOver: ticket => uffdWaits.isOver(ticket),
      finish: ticket => uffdWaits.finish(ticket),
      resolve: () =>
        host.kvm.fault.lastGup === GUP_SIGBUS &&
        (this.#ports.userFault?.(host.missedGpa, host.missedWrite) ?? false),
    };
  }

  /**
   * Waits at most `ms` for the user fault that holds the guest up, letting managers of this thread work first.
   * False, at once, when it is nothing of that kind.
   */
  waitForPage(ms: number): boolean {
    const { uffdWaits } = this.host.mm;
    const ticket = this.#own.find(loop => loop.ticket !== 0)?.ticket ?? this.memory.ticket;
    if (ticket === 0) return false;
    if (ms > 0) uffdWaits.waitFor(ticket, ms);
    else if (!uffdWaits.isOver(ticket)) return uffdWaits.serve(ticket);
    return true;
  }

  #balloonPorts(): BalloonPorts {
    return {
      discard: (gpa, length) => this.memory.discard(gpa, length),
      onActual: bytes => this.#ports.balloon?.(bytes),
    };
  }

  #blocks(): (() => boolean) | undefined {
    const { blockedOneIn, seed } = this.#config;
    if (blockedOneIn === undefined) return undefined;
    const random = new Random((seed ?? 1) + 17);
    return () => random.oneIn(blockedOneIn);
  }

  /** What the threads of its other runners need. */
  get runnerShare(): RunnerShare {
    return {
      vm: this.vm,
      mm: this.mm,
      irqchip: this.#irqchip,
      runners: this.#runners,
      startMs: this.#startMs,
      epochSeconds: this.clock.epochSeconds,
    };
  }

  /** The guest's pieces, for who watches from another thread. */
  get guest(): Guest {
    return this.#guest;
  }

  /** Gives the guest's memory back to the Host. The machine is dead. */
  destroy(): void {
    this.setRunning(false);
    for (const loop of this.#loops) loop.leaveFault();
    this.memory.close();
    this.host.destroyGuest(this.#guest);
    this.host.mm.heap.free(this.#irqchip);
  }
}

function seededBytes(seed: number): (into: Uint8Array) => void {
  const random = new Random(seed);
  return into => {
    for (let i = 0; i < into.length; i++) into[i] = random.below(256);
  };
}
