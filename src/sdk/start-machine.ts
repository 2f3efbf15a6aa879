import { epochSeconds, fillRandom, monotonicMs } from '../host/world.ts';
import type { Host } from '../machine/host.ts';
import { Machine, type MachinePorts } from '../machine/machine.ts';
import type { DriverEvents, Launch } from './driver.ts';

/** Opens a disk that a Launch names, on the machine's own thread. */
export type OpenDisk = (path: string) => NonNullable<MachinePorts['disks']>[number];

/** Builds the machine on the thread that will own its devices, and loads what it boots. */
export function startMachine(
  host: Host,
  launch: Launch,
  events: DriverEvents,
  openDisk: OpenDisk,
  ports: Pick<MachinePorts, 'wake' | 'pause'> = {},
): Machine {
  const machine = new Machine(host, launch.machine, {
    ...ports,
    // Copies: a device uses its buffer again, and listeners may keep what they get.
    console: bytes => events.console(bytes.slice()),
    ...(launch.agent ? { agent: (bytes: Uint8Array) => events.agent(bytes.slice()) } : {}),
    balloon: bytes => events.balloon?.(bytes),
    disks: launch.disks.map(openDisk),
    monotonicMs,
    epochSeconds: epochSeconds(),
    random: fillRandom,
  });
  if ('elf' in launch.files) machine.bootBare(launch.files.elf);
  else if ('entry' in launch.files) machine.enter(launch.files.entry);
  else machine.boot(launch.files);
  return machine;
}
