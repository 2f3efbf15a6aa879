import { compilePatiently, isPatient } from '../host/node/engine-flags.ts';
import { swapFilePort } from '../host/node/swap-file.ts';
import type { HostPorts } from '../machine/host.ts';

/** What a thread of Node brings to a Host. */
export const nodePorts: HostPorts = {
  swapFile: swapFilePort,
  ...(isPatient && { compile: compilePatiently }),
};
