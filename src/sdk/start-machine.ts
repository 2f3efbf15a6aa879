import { epochSeconds, fillRandom, monotonicMs } from '../host/node/world.ts';
import { openDisk } from '../image/open-disk.ts';
import type { Host } from '../machine/host.ts';
import { Machine } from '../machine/machine.ts';
import type { DriverEvents, Launch } from './driver.ts';

/** Builds the machine on the thread that will own its devices, and loads what it boots. */
export function startMachine(host: Host, launch: Launch, events: DriverEvents): Machine {
  const machine = new Machine(host, launch.machine, {
    // Copies: a device uses its buffer again, and listeners may keep what they get.
    console: bytes => events.console(bytes.slice()),
    ...(launch.agent ? { agent: (bytes: Uint8Array) => events.agent(bytes.slice()) } : {}),
    disks: launch.disks.map(openDisk),
    monotonicMs,
    epochSeconds: epochSeconds(),
    random: fillRandom,
  });
  if ('elf' in launch.files) machine.bootBare(launch.files.elf);
  else machine.boot(launch.files);
  return machine;
}
