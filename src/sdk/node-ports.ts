import { swapFilePort } from '../host/node/swap-file.ts';
import { openDisk } from '../image/open-disk.ts';
import type { HostPorts } from '../machine/host.ts';
import type { InlineOptions } from './inline-driver.ts';

/** What a thread of Node brings to a Host. */
export const nodePorts: HostPorts = { swapFile: swapFilePort };

/** A machine on this thread of Node. */
export const nodeMachine: InlineOptions = { openDisk, ports: nodePorts };
