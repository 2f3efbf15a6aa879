import { Interrupt } from '../cpu/vcpu.ts';
import { Plic } from '../devices/plic.ts';
import type { Harts } from './harts.ts';
import type { Host } from './host.ts';

// The PLIC's state is in the arena, behind a lock, so that each thread that runs harts has a Plic over it (design 5):
//
//   word 0   class 'irqchip'
//   word 1…  Plic.words(harts)

export const irqchipWords = (harts: number): number => 1 + Plic.words(harts);

/** What a Plic is made from, on any thread. */
export function irqchipPorts(host: Host, harts: Harts, at: number) {
  const count = harts.vcpus.length;
  return {
    irqchip: host.words.subarray(at + 1, at + irqchipWords(count)),
    irqchipLock: {
      acquire: () => host.sync.lock('irqchip', at),
      release: () => host.sync.unlock('irqchip', at),
    },
    setExternal: (hart: number, level: boolean) =>
      level ? harts.interrupt(hart, Interrupt.External) : harts.clearInterrupt(hart, Interrupt.External),
  };
}

/** The interrupt controller of a machine whose devices another thread owns. */
export function sharedPlic(host: Host, harts: Harts, at: number): Plic {
  const { irqchip, irqchipLock, setExternal } = irqchipPorts(host, harts, at);
  return new Plic(irqchip, { harts: harts.vcpus.length, setExternal, lock: irqchipLock });
}
