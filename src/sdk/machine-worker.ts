import { parentPort, workerData } from 'node:worker_threads';
import { FaultlineError } from '../base/error.ts';
import type { Channel } from '../machine/board.ts';
import { Host } from '../machine/host.ts';
import { type Inlet, RunLoop } from '../machine/run-loop.ts';
import { Ring } from '../sync/ring.ts';
import { startMachine } from './start-machine.ts';
import {
  CHANNELS,
  CONTROL,
  INPUT_RING_BYTES,
  type MachineMessage,
  type MachineWorkerData,
} from './worker-driver.ts';

const { share, launch, control, rings } = workerData as MachineWorkerData;
const port = parentPort!;
const post = (message: MachineMessage): void => port.postMessage(message);

/** The rings that the other thread fills. */
function inletOf(host: Host): Inlet {
  const byChannel = new Map(CHANNELS.map((c, i) => [c, new Ring(host.sync, rings[i]!, INPUT_RING_BYTES)]));
  return {
    peek: channel => byChannel.get(channel)!.peek(4096),
    skip: (channel, count) => byChannel.get(channel)!.skip(count),
  };
}

function run(): void {
  const host = Host.attach(share);
  const output = (channel: Channel) => (bytes: Uint8Array) =>
    post({ kind: 'output', channel, bytes: bytes.slice() });
  const machine = startMachine(host, launch, { console: output('console'), agent: output('agent') });
  const loop = new RunLoop({ machine, inlet: inletOf(host), channels: CHANNELS });
  const { words } = host;
  for (;;) {
    const seen = Atomics.load(words, control + CONTROL.wake);
    if (Atomics.load(words, control + CONTROL.stop) !== 0)
      return post({ kind: 'end', end: { kind: 'stopped' } });
    const round = loop.round();
    if (round.kind === 'end') return post({ kind: 'end', end: round.end });
    if (round.kind === 'sleep' && round.ms > 0) Atomics.wait(words, control + CONTROL.wake, seen, round.ms);
  }
}

try {
  run();
} catch (error) {
  const e = error instanceof Error ? error : new Error(String(error));
  const hint = e instanceof FaultlineError ? e.hint : undefined;
  post({
    kind: 'failed',
    name: e.name,
    code: (e as { code?: string }).code,
    message: e.stack ?? e.message,
    hint,
  });
}
