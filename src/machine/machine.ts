import { assert } from '../base/assert.ts';
import { Random } from '../base/random.ts';
import type { VcpuPtr } from '../cpu/interface.ts';
import { AT, Interrupt } from '../cpu/vcpu.ts';
import type { BlockBackend } from '../devices/interface.ts';
import { Plic } from '../devices/plic.ts';
import type { BalloonPorts } from '../devices/virtio-balloon.ts';
import { VmMemory } from '../kvm/guest-memory.ts';
import { GUP_SIGBUS } from '../mm/fault-codes.ts';
import type { Ptr } from '../sync/struct.ts';
import { Board, type Channel } from './board.ts';
import { type BootFiles, load, planBoot } from './boot.ts';
import { instretClock, type MachineClock, realClock } from './clock.ts';
import { type BareProgram, loadElf } from './elf.ts';
import type { Guest, Host } from './host.ts';
import { RAM_BASE } from './memory-map.ts';
import { HartState, type SbiPorts } from './sbi.ts';
import { type FaultPorts, type Step, VcpuLoop } from './vcpu-loop.ts';

/** What a machine is made of; plain data, so that it can be sent to a worker. */
export type MachineConfig = {
  memoryBytes: number;
  /** Pages of the VM that may be in frames at once; unlimited when absent. */
  memoryLimitBytes?: number;
  /** Guests of one owner may share pages by content; the Host's own unless told. */
  owner?: number;
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
  monotonicMs(): number;
  epochSeconds: number;
  random(into: Uint8Array): void;
};

/** scounteren.TM: user mode may read `time` (privileged manual, "Supervisor Counter-Enable"). */
const SCOUNTEREN_TM = 1 << 1;

/** A board with one VM and its vCPU, on one thread: load, then `step` until it says otherwise. */
export class Machine {
  readonly host: Host;
  readonly vm: Ptr<'vm'>;
  readonly mm: Ptr<'mm'>;
  readonly vcpu: VcpuPtr;
  readonly memory: VmMemory;
  readonly board: Board;
  readonly clock: MachineClock;
  readonly #loop: VcpuLoop;
  readonly #config: MachineConfig;
  readonly #ports: MachinePorts;
  readonly #random: (into: Uint8Array) => void;
  readonly #guest: Guest;
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
    });
    this.#guest = guest;
    this.vm = guest.vm;
    this.mm = guest.mm;
    this.vcpu = guest.vcpu;
    this.memory = new VmMemory(host.kvm, this.vm, {
      blocked: this.#blocks(),
      sigbus: (gpa, write) => ports.userFault?.(gpa, write) ?? false,
    });
    host.blockFor(this.vm, this.#blocks());
    const { cpu } = host;
    this.clock =
      config.clock === 'instret'
        ? instretClock(() => cpu.instret(this.vcpu))
        : realClock(ports.monotonicMs, ports.epochSeconds);
    host.setClock(this.vm, this.clock);
    this.board = this.#makeBoard();
    this.#loop = new VcpuLoop({
      cpu,
      vcpu: this.vcpu,
      board: this.board,
      clock: this.clock,
      sbi: this.#sbiPorts(),
      words: host.words,
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

  /** The vCPU at a kernel's entry, where RAM holds, or will be found to hold, what a BootPlan says. */
  enter(entry: { pc: number; a1: number }): void {
    this.host.cpu.reset(this.vcpu, { hartId: 0, ...entry });
    // As firmware leaves it: the vDSO reads `time` in user mode, and without an SBI PMU nobody else allows it.
    this.host.words[this.vcpu + AT.scounteren] = SCOUNTEREN_TM;
  }

  /** Loads an ELF and enters it in S-mode, satp 0, a0 = hart id, SBI answered. */
  bootBare(file: Uint8Array): void {
    this.#bare = loadElf(file, this.memory, { base: RAM_BASE, end: RAM_BASE + this.#config.memoryBytes });
    this.host.cpu.reset(this.vcpu, { hartId: 0, pc: this.#bare.entry, a1: 0 });
  }

  /** For memory pressure: a guest that has nothing to do loses no time to anything (psi.ts). */
  setRunning(running: boolean): void {
    if (running === this.#running) return;
    this.#running = running;
    const { psi, layout } = this.host.mm;
    psi.running(layout.mm.memcg.get(this.mm), running ? 1 : -1);
  }

  step(): Step {
    return this.#loop.step();
  }

  /** Milliseconds that an idle guest may sleep. */
  sleepMs(): number {
    return this.#loop.sleepMs();
  }

  /** True when a test has pages answered `blocked` though they are there. */
  get blocksAtRandom(): boolean {
    return this.#config.blockedOneIn !== undefined;
  }

  get runnable(): boolean {
    return this.#loop.runnable;
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
    const irqchip = host.mm.heap.alloc(Plic.words(1));
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
      irqchip: host.words.subarray(irqchip, irqchip + Plic.words(1)),
      setExternal: (_hart, level) => {
        const at = this.vcpu + AT.pending;
        if (level) Atomics.or(host.words, at, Interrupt.External);
        else Atomics.and(host.words, at, ~Interrupt.External);
      },
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
    const ticket = this.#loop.ticket || this.memory.ticket;
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

  #sbiPorts(): SbiPorts {
    const { words } = this.host;
    const { vcpu } = this;
    return {
      harts: 1,
      memory: this.memory,
      console: { write: bytes => this.#ports.console(bytes), read: () => new Uint8Array(0) },
      setTimer(_hart, ticks) {
        const never = ticks === Number.POSITIVE_INFINITY;
        words[vcpu + AT.timecmp] = never ? -1 : ticks | 0;
        words[vcpu + AT.timecmp + 1] = never ? -1 : Math.floor(ticks / 2 ** 32);
        Atomics.and(words, vcpu + AT.pending, ~Interrupt.Timer);
      },
      sendIpi: () => void Atomics.or(words, vcpu + AT.pending, Interrupt.Software),
      remoteFence: () => this.host.cpu.flushTlb(vcpu),
      hartState: () => HartState.Started,
      hartStart: () => assert(false, 'hart 0 is always started'),
    };
  }

  #blocks(): (() => boolean) | undefined {
    const { blockedOneIn, seed } = this.#config;
    if (blockedOneIn === undefined) return undefined;
    const random = new Random((seed ?? 1) + 17);
    return () => random.oneIn(blockedOneIn);
  }

  /** The guest's pieces, for who watches from another thread. */
  get guest(): Guest {
    return this.#guest;
  }

  /** Gives the guest's memory back to the Host. The machine is dead. */
  destroy(): void {
    this.setRunning(false);
    this.#loop.leaveFault();
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
