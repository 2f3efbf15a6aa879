import { parentPort, workerData } from 'node:worker_threads';
import { FaultlineError } from '../base/error.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { keepCompiled } from '../host/node/keep-compiled.ts';
import { openDisk } from '../image/open-disk.ts';
import type { Channel } from '../machine/board.ts';
import { type Guest, Host } from '../machine/host.ts';
import type { Machine } from '../machine/machine.ts';
import { PauseGate, Pauses } from '../machine/pause.ts';
import { BLOCKED_MS, type Inlet, type MachineEnd, type Round, RunLoop } from '../machine/run-loop.ts';
import { HaltPoll } from '../sync/halt-poll.ts';
import { Ring } from '../sync/ring.ts';
import { nodePorts } from './node-ports.ts';
import { startMachine } from './start-machine.ts';
import {
  CHANNELS,
  CLOSED,
  CONTROL,
  INPUT_RING_BYTES,
  type MachineMessage,
  type MachineWorkerData,
  pauseAt,
  wakeWord,
} from './worker-driver.ts';

const port = parentPort!;
/** A guest that waits for a page looks this often whether it is to stop. The page itself wakes it. */
const ANSWER_MS = 5;
/** An idle guest that nothing wakes for so long has come to its prompt. */
const LEISURE_MS = 10;
const post = (message: MachineMessage): void => port.postMessage(message);

/** The rings that the other thread fills. */
function inletOf(host: Host, rings: readonly number[]): Inlet {
  const byChannel = new Map(CHANNELS.map((c, i) => [c, new Ring(host.sync, rings[i]!, INPUT_RING_BYTES)]));
  return {
    peek: channel => byChannel.get(channel)!.peek(4096),
    skip: (channel, count) => byChannel.get(channel)!.skip(count),
  };
}

function run({ share, launch, control, rings }: MachineWorkerData): void {
  const host = Host.attach(share, nodePorts);
  const output = (channel: Channel) => (bytes: Uint8Array) => post({ kind: 'output', channel, bytes });
  const balloon = (bytes: number) =>
    Atomics.store(host.words, control + CONTROL.balloonActual, bytes / PAGE_SIZE);
  const events = { console: output('console'), agent: output('agent'), balloon };
  const ports = { wake: (runner: number) => wakeWord(control, runner), pause: pauseAt(control) };
  const machine = startMachine(host, launch, events, openDisk, ports);
  const { words } = host;
  tell(words, control, machine.guest);
  post({ kind: 'made', share: machine.runnerShare });
  if (launch.waits) Atomics.wait(words, control + CONTROL.go, 0);
  const end = runToEnd(host, machine, control, inletOf(host, rings));
  endRunners(host, machine, control);
  if (!launch.keepMemory) {
    Atomics.store(words, control + CONTROL.mm, 0);
    new Pauses(host.kvm).awaitTold(pauseAt(control));
    machine.destroy();
  }
  host.mm.close();
  post({ kind: 'end', end });
  keepCompiled();
}

/** Returns when the machine's other runners have left its memory, or will never come to it. */
function endRunners(host: Host, machine: Machine, control: number): void {
  const { words } = host;
  const { runners } = machine.runnerShare;
  const at = control + CONTROL.runners;
  Atomics.store(words, control + CONTROL.over, 1);
  machine.harts.stopAll();
  for (let runner = 1; runner < runners; runner++) {
    Atomics.add(words, wakeWord(control, runner), 1);
    Atomics.notify(words, wakeWord(control, runner));
  }
  for (let left = Atomics.compareExchange(words, at, 0, CLOSED); left > 0; left = Atomics.load(words, at)) {
    Atomics.wait(words, at, left);
  }
}

/** Who watches reads the mm first: all else is there when that is. */
function tell(words: Int32Array, control: number, guest: Guest): void {
  Atomics.store(words, control + CONTROL.vm, guest.vm);
  Atomics.store(words, control + CONTROL.vpn, guest.hva / PAGE_SIZE);
  Atomics.store(words, control + CONTROL.pages, guest.bytes / PAGE_SIZE);
  Atomics.store(words, control + CONTROL.mm, guest.mm);
}

function runToEnd(host: Host, machine: Machine, control: number, inlet: Inlet): MachineEnd {
  const loop = new RunLoop({ machine, inlet, channels: CHANNELS });
  const { words } = host;
  const poll = new HaltPoll(words, host.sync.waiter);
  const gate = new PauseGate(new Pauses(host.kvm), pauseAt(control));
  const round = (): Round => {
    if (Atomics.load(words, control + CONTROL.stop) !== 0) return { kind: 'end', end: { kind: 'stopped' } };
    if (!gate.enter()) return { kind: 'paused' };
    machine.setBalloon((Atomics.load(words, control + CONTROL.balloonTarget) >>> 0) * PAGE_SIZE);
    return loop.round();
  };
  /** Until the wake word is another than `seen`, or what else the machine waits for has come. */
  const sleep = (why: Exclude<Round, { kind: 'on' | 'end' }>, seen: number): void => {
    const wake = control + CONTROL.wake;
    if (why.kind === 'paused') Atomics.wait(words, wake, seen);
    else if (why.kind === 'sleep' && why.ms > 0) {
      if (why.ms > LEISURE_MS) keepCompiled();
      poll.wait(wake, seen, why.ms);
    } else if (why.kind === 'blocked' && !machine.waitForPage(ANSWER_MS)) {
      Atomics.wait(words, wake, seen, BLOCKED_MS);
    }
  };
  for (;;) {
    const seen = Atomics.load(words, control + CONTROL.wake);
    const next = round();
    if (next.kind === 'on') continue;
    gate.leave();
    if (next.kind === 'end') return next.end;
    sleep(next, seen);
  }
}

function main(data: MachineWorkerData): void {
  try {
    run(data);
  } catch (error) {
    post(failure(error));
  }
}

function failure(error: unknown): MachineMessage {
  const e = error instanceof Error ? error : new Error(String(error));
  const hint = e instanceof FaultlineError ? e.hint : undefined;
  const { name, message, stack } = e;
  return { kind: 'failed', name, code: (e as { code?: string }).code, message, stack, hint };
}

// At once, or when it is known (standby.ts).
if (workerData) main(workerData as MachineWorkerData);
else port.once('message', main);
