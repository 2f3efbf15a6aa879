import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import { Request } from '../cpu/interface.ts';
import { AT as VCPU } from '../cpu/vcpu.ts';
import { UffdMode, Userfaultfd } from '../mm/index.ts';
import { Protocol, Spte } from './layout.ts';
import { GFN, KvmRig } from './testing.ts';

const PROTOCOLS = [Protocol.Modern, Protocol.SeqlockPin, Protocol.NonRange] as const;

test('K-34: zapping everything gives each space a new root, frees the old trees, loses no byte, and asks vCPUs to flush', () => {
  for (const protocol of PROTOCOLS) {
    const rig = new KvmRig({ protocol });
    rig.set({ slot: 1, gfn: GFN, page: 16, pages: 4, space: 1 });
    const vcpu = rig.addVcpu();
    for (let i = 0; i < 8; i++) rig.sync.words[rig.write(GFN + i) * 1024] = i + 1;
    rig.write(GFN, 1);
    const { tables, rootGeneration } = rig.kvm.layout.vm;
    const roots = [0, 1].map(space => rig.kvm.mmu.root(rig.vm, space));
    const before = tables.get(rig.vm);
    expect(rig.kvm.zapAll(rig.vm)).toBe(true);
    expect([rig.slots().leaves, rootGeneration.load(rig.vm)]).toEqual([0, 1]);
    const fresh = [0, 1].map(space => rig.kvm.mmu.root(rig.vm, space));
    expect(fresh.some(root => roots.includes(root))).toBe(false);
    expect(tables.get(rig.vm)).toBeLessThan(before);
    expect((rig.sync.words[vcpu + VCPU.requests] as number) & Request.FlushPages).not.toBe(0);
    rig.check();
    for (let i = 0; i < 8; i++) expect(rig.sync.words[rig.read(GFN + i) * 1024]).toBe(i + 1);
    rig.check();
    rig.vms.destroy(rig.vm);
    rig.core.checkInvariants();
  }
});

test('K-34: leaves of 2 MiB and the tables that wait below them go too; without a frame nothing happens', () => {
  const rig = new KvmRig({ frames: 3072, mapped: 1536, pages: 0 });
  const at = 1024;
  rig.set({ gfn: at, pages: 1024 });
  rig.sync.words[rig.write(at + 3) * 1024] = 4;
  rig.advise('hugepage', 0, 1024);
  rig.advise('collapse', 0, 512);
  rig.write(at + 3);
  rig.write(at + 513);
  expect(rig.kvm.layout.vm.pages2m.get(rig.vm)).toBe(2);
  rig.core.pageAlloc.failAt(2);
  expect(rig.kvm.zapAll(rig.vm)).toBe(false);
  expect(rig.kvm.layout.vm.pages2m.get(rig.vm)).toBe(2);
  rig.check();
  expect(rig.kvm.zapAll(rig.vm)).toBe(true);
  expect([rig.kvm.layout.vm.pages2m.get(rig.vm), rig.slots().leaves]).toEqual([0, 0]);
  rig.check();
  expect(rig.sync.words[rig.read(at + 3) * 1024]).toBe(4);
  rig.core.hugePmd.split(rig.mm, rig.vpn);
  rig.read(at + 3);
  expect(rig.leaf(at + 3) & (Spte.Present | Spte.Huge)).toBe(Spte.Present);
  rig.check();
});

const codeOf = (work: () => unknown): unknown => {
  try {
    return work();
  } catch (error) {
    return (error as { code: string }).code;
  }
};

test('K-33: pre_fault makes leaves page by page, and says how many bytes, or why none', () => {
  const rig = new KvmRig();
  const pre = (page: number, pages: number) =>
    codeOf(() => rig.kvm.fault.preFault(rig.vm, 0, (GFN + page) * PAGE_SIZE, pages * PAGE_SIZE));
  expect(pre(2, 3)).toBe(3 * PAGE_SIZE);
  expect(rig.present()).toEqual([GFN + 2, GFN + 3, GFN + 4]);
  expect([pre(14, 4), pre(16, 1)]).toEqual([2 * PAGE_SIZE, 'ENOENT']);
  expect([pre(0, 0), codeOf(() => rig.kvm.fault.preFault(rig.vm, 0, 1, PAGE_SIZE))]).toEqual([
    'EINVAL',
    'EINVAL',
  ]);
  rig.check();

  const userfault = Userfaultfd.create(rig.core, rig.mm, { nonBlock: true });
  userfault.api(0);
  userfault.register((rig.vpn + 6) * PAGE_SIZE, 2 * PAGE_SIZE, UffdMode.Missing);
  expect([pre(5, 3), pre(6, 1)]).toEqual([PAGE_SIZE, 'EAGAIN']);
  expect(rig.core.slabs.uffdWait.used).toBe(0); // and nobody waits
  rig.core.mmap.unmap(rig.mm, (rig.vpn + 8) * PAGE_SIZE, PAGE_SIZE);
  expect(pre(8, 1)).toBe('EFAULT');
  rig.check();
});
