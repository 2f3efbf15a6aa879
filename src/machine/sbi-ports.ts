import type { Harts } from './harts.ts';
import type { SbiPorts } from './sbi.ts';

/** What SBI's calls do to the harts of a machine; the rest is the caller's. */
export function sbiPorts(harts: Harts, rest: Pick<SbiPorts, 'memory' | 'console'>): SbiPorts {
  return {
    ...rest,
    harts: harts.vcpus.length,
    setTimer: (hart, ticks) => harts.setTimer(hart, ticks),
    sendIpi: hart => harts.sendIpi(hart),
    remoteFence: (of, fence) => harts.fence(of, fence),
    hartState: hart => harts.state(hart),
    hartStart: (hart, start) => harts.start(hart, start),
  };
}
