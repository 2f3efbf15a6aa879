import { openDisk } from '../image/open-disk.ts';
import { framesFor } from '../machine/host.ts';
import type { Driver, DriverEvents, Launch } from './driver.ts';
import { Host } from './host.ts';
import { InlineDriver } from './inline-driver.ts';
import type { SandboxOptions, Sizes } from './options.ts';
import { WorkerDriver } from './worker-driver.ts';

/** A Host for one guest, as large as that needs; whoever asks closes it. */
export function privateHost(sizes: Sizes, options: SandboxOptions): Host {
  const { memoryBytes, limitBytes, swap, closeSwap } = sizes;
  try {
    const frames = framesFor(memoryBytes, limitBytes, swap);
    const shared = options.runners !== 0;
    return Host.of({ frames, shared, swap, breaks: options.breaks ?? [] }, closeSwap);
  } catch (error) {
    closeSwap();
    throw error;
  }
}

/** Starts a machine in a Host, where that runs its guests. Throws E_USAGE when the Host is closed. */
export function start(host: Host, launch: Launch, events: DriverEvents): Driver {
  host.assertOpen();
  const driver: Driver = host.inline
    ? new InlineDriver(host.machineHost, launch, events, openDisk)
    : new WorkerDriver(host.machineHost, launch, events);
  host.enter(driver, launch.machine.ksm !== undefined);
  return driver;
}
