import { epochSeconds, fillRandom, monotonicMs } from '../host/node/world.ts';
import { openDisk } from '../image/open-disk.ts';
import type { Host } from '../machine/host.ts';
import { Machine } from '../machine/machine.ts';
import type { DriverEvents, Launch } from './driver.ts';

/** Builds the machine on the thread that will own its devices, and loads what it boots. */
export function startMachine(host: Host, launch: Launch, events: DriverEvents): Machine {
  const machine = new Machine(host, launch.machine, {
    console: events.console,
    ...(launch.agent ? { agent: events.agent } : {}),
    disks: launch.disks.map(openDisk),
    monotonicMs,
    epochSeconds: epochSeconds(),
    random: fillRandom,
  });
  if ('elf' in launch.files) machine.bootBare(launch.files.elf);
  else machine.boot(launch.files);
  return machine;
}
