import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import { Miss } from '../cpu/interface.ts';
import { UffdMode, Userfaultfd } from '../mm/index.ts';
import type { KvmBreaks } from './breaks.ts';
import { Protocol } from './layout.ts';
import { GFN, KvmRig } from './testing.ts';

test('T-FIR-17: a fault that slept through a thousand invalidations of other pages installs at once; by its first sample never', () => {
  const run = (protocol: 0 | 1 | 2, breaks: Partial<KvmBreaks>) => {
    const rig = new KvmRig({ protocol, breaks });
    const address = (page: number) => (rig.vpn + page) * PAGE_SIZE;
    const userfault = Userfaultfd.create(rig.core, rig.mm, { nonBlock: true });
    userfault.api(0);
    userfault.register(address(0), PAGE_SIZE, UffdMode.Missing);
    expect(rig.write(GFN)).toBe(Miss.Blocked);
    const { ticket } = rig.kvm.fault;
    for (let i = 0; i < 1000; i++) {
      rig.core.access.write32(rig.mm, address(1), i);
      rig.advise('dontneed', 1);
    }
    expect(rig.core.mfill.copy(userfault.ctx, address(0), new Uint8Array(PAGE_SIZE), PAGE_SIZE)).toBe(0);
    rig.core.uffdWaits.finish(ticket);
    let checks = 0;
    rig.at = label => {
      if (label === 'F.c' && ++checks > 2) throw new Error('it retries without end');
    };
    expect(rig.write(GFN)).toBeGreaterThan(0);
    expect(rig.kvm.layout.vm.pfRetried.load(rig.vm)).toBe(0);
    rig.check();
  };
  for (const protocol of [Protocol.Modern, Protocol.SeqlockPin, Protocol.NonRange] as const) {
    run(protocol, {});
    expect(() => run(protocol, { sampleOnce: true })).toThrow('without end');
  }
});
