import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import { Miss } from '../cpu/interface.ts';
import { GUP_PFN_MASK } from '../mm/fault-codes.ts';
import { UffdMode, Userfaultfd } from '../mm/index.ts';
import { PageFlag } from '../mm/layout.ts';
import { provide } from '../mm/userfaultfd/manager-testing.ts';
import { frameByte } from '../sync/arena.ts';
import { VmMemory } from './guest-memory.ts';
import { SlotFlag } from './layout.ts';
import { GFN, KvmRig } from './testing.ts';

const BASE = GFN * PAGE_SIZE;

type Pin = Exclude<ReturnType<VmMemory['pin']>, string>;

function rigWithMemory(options: ConstructorParameters<typeof KvmRig>[0] = {}) {
  const rig = new KvmRig(options);
  return { rig, memory: new VmMemory(rig.kvm, rig.vm) };
}

const pinned = (memory: VmMemory, gpa: number, length: number, access: 'read' | 'write'): Pin => {
  const pin = memory.pin(gpa, length, access);
  if (typeof pin === 'string') throw new Error(`not pinned: ${pin}`);
  return pin;
};

test('a pin across pages gives a piece of each, in order, and they are the bytes of the guest', () => {
  const { rig, memory } = rigWithMemory();
  const pin = pinned(memory, BASE + PAGE_SIZE - 3, PAGE_SIZE + 5, 'write');
  expect(pin.pieces.map(piece => piece.length)).toEqual([3, PAGE_SIZE, 2]);
  for (const [i, piece] of pin.pieces.entries()) piece.fill(i + 1);
  memory.unpin(pin);
  const at = (page: number, offset: number) => rig.sync.arena.bytes[frameByte(rig.read(GFN + page)) + offset];
  expect([at(0, 4092), at(0, 4093), at(1, 0), at(1, 4095), at(2, 1), at(2, 2)]).toEqual([0, 1, 2, 2, 3, 0]);
  rig.check();
});

test('a pin of no bytes holds nothing', () => {
  const { memory } = rigWithMemory();
  expect(memory.pin(BASE, 0, 'write')).toEqual({ pieces: [], pfns: [] });
});

test.each([
  ['before RAM', BASE - PAGE_SIZE, 8, 'read'],
  ['that begin before RAM', BASE - 4, 8, 'read'],
  ['that end behind RAM', BASE + 16 * PAGE_SIZE - 4, 8, 'write'],
  ['beyond what a guest can have', 2 ** 40, 8, 'read'],
  ['at the end of all addresses', 2 ** 53 - 8, 8, 'read'],
  ['beyond 64 bits', 2 ** 63, 8, 'write'],
] as const)('bytes %s are a fault, and nothing stays pinned', (_where, gpa, length, access) => {
  const { rig, memory } = rigWithMemory();
  rig.write(GFN);
  rig.write(GFN + 15);
  const counts = () => [GFN, GFN + 15].map(gfn => rig.core.pages.refcount(rig.read(gfn)));
  const before = counts();
  expect(memory.pin(gpa, length, access)).toBe('fault');
  expect(counts()).toEqual(before);
});

test('a read-only slot can be pinned to read, and not to write', () => {
  const { rig, memory } = rigWithMemory({ pages: 0 });
  rig.set({ pages: 4, flags: SlotFlag.ReadOnly });
  expect(memory.pin(BASE, 8, 'write')).toBe('fault');
  memory.unpin(pinned(memory, BASE, 8, 'read'));
  rig.check();
});

test('unpinning gives back every reference, also of a page that was pinned twice', () => {
  const { rig, memory } = rigWithMemory();
  const pfn = rig.write(GFN);
  const before = rig.core.pages.refcount(pfn);
  const pins = [
    pinned(memory, BASE, 100, 'read'),
    pinned(memory, BASE, 100, 'write'),
    pinned(memory, BASE, 2 * PAGE_SIZE, 'read'),
  ];
  expect(rig.core.pages.refcount(pfn)).toBe(before + 3);
  for (const pin of pins) memory.unpin(pin);
  expect(rig.core.pages.refcount(pfn)).toBe(before);
  rig.check();
});

test('a pinned page is not taken away; unpinned it is, with what the device wrote', () => {
  const { rig, memory } = rigWithMemory();
  const pin = pinned(memory, BASE, 4, 'write');
  rig.advise('pageout', 0);
  pin.pieces[0]?.set([1, 2, 3, 4]);
  expect(rig.read(GFN)).toBe(pin.pfns[0]);
  memory.unpin(pin);
  rig.advise('pageout', 0);
  expect(rig.leaf(GFN)).toBe(0);
  const at = frameByte(rig.read(GFN));
  expect([...rig.sync.arena.bytes.subarray(at, at + 4)]).toEqual([1, 2, 3, 4]);
  rig.check();
});

test('DMA makes a page dirty that swap holds a copy of, and drops its decoded instructions', () => {
  const { rig, memory } = rigWithMemory({ code: 64 });
  rig.write(GFN);
  rig.advise('pageout', 0);
  const pfn = rig.read(GFN);
  rig.core.pages.clear(pfn, PageFlag.Dirty);
  rig.dropped.length = 0;
  memory.unpin(pinned(memory, BASE, 4, 'read'));
  expect([rig.core.pages.has(pfn, PageFlag.Dirty), rig.dropped]).toEqual([false, []]);
  const pin = pinned(memory, BASE, 4, 'write');
  expect([rig.core.pages.has(pin.pfns[0] as number, PageFlag.Dirty), rig.dropped]).toEqual([true, [pfn]]);
  memory.unpin(pin);
});

test('a pin that is blocked half way holds nothing and can be asked again', () => {
  const rig = new KvmRig();
  let asked = 0;
  const memory = new VmMemory(rig.kvm, rig.vm, { blocked: () => ++asked === 2 });
  const pfn = rig.write(GFN);
  const before = rig.core.pages.refcount(pfn);
  expect(memory.pin(BASE, 3 * PAGE_SIZE, 'write')).toBe('blocked');
  expect(rig.core.pages.refcount(pfn)).toBe(before);
  memory.unpin(pinned(memory, BASE, 3 * PAGE_SIZE, 'write'));
  expect(rig.core.pages.refcount(pfn)).toBe(before);
  rig.check();
});

test('O-6 what the guest does without is a hole, for every leaf of it, and the rest stays', () => {
  const { rig, memory } = rigWithMemory();
  rig.set({ slot: 1, gfn: GFN + 64, page: 0 });
  for (const page of [0, 1, 2, 3]) rig.sync.arena.bytes[frameByte(rig.write(GFN + page))] = 7;
  rig.write(GFN + 64 + 1);
  expect(memory.discard(BASE + PAGE_SIZE, 2 * PAGE_SIZE)).toBe(true);
  expect(rig.present(GFN, 4)).toEqual([GFN, GFN + 3]);
  expect(rig.leaf(GFN + 64 + 1)).toBe(0);
  const at = (page: number) => rig.sync.arena.bytes[frameByte(rig.write(GFN + page))];
  expect([at(0), at(1), at(2), at(3)]).toEqual([7, 0, 0, 7]);
  rig.check();
});

test('O-6 a guest that gives up what it has not only hurts itself', () => {
  const { rig, memory } = rigWithMemory();
  rig.set({ slot: 1, gfn: GFN + 64, page: 20, flags: SlotFlag.ReadOnly });
  rig.write(GFN);
  expect(rig.read(GFN + 64)).toBeGreaterThan(0);
  const all: [number, number][] = [
    [0, BASE],
    [BASE + 16 * PAGE_SIZE, 2 ** 40],
    [BASE + 64 * PAGE_SIZE, 16 * PAGE_SIZE],
  ];
  for (const [gpa, length] of all) expect(memory.discard(gpa, length)).toBe(true);
  expect(rig.present(GFN, 1)).toEqual([GFN]);
  expect(rig.leaf(GFN + 64)).not.toBe(0);
  expect(memory.discard(0, 2 ** 41)).toBe(true);
  expect(rig.present(GFN, 16)).toEqual([]);
  rig.check();
});

test('O-6 a page that a device has pinned is given up and stays until it is unpinned', () => {
  const { rig, memory } = rigWithMemory();
  const pin = pinned(memory, BASE, 8, 'write');
  pin.pieces[0]!.fill(9);
  expect(memory.discard(BASE, PAGE_SIZE)).toBe(true);
  expect(pin.pieces[0]![0]).toBe(9);
  memory.unpin(pin);
  expect(rig.sync.arena.bytes[frameByte(rig.write(GFN))]).toBe(0);
  rig.check();
});

function armedRig() {
  const { rig, memory } = rigWithMemory();
  const { core, mm, vpn } = rig;
  const userfault = Userfaultfd.create(core, mm, { nonBlock: true });
  userfault.api(0);
  userfault.register(vpn * PAGE_SIZE, 16 * PAGE_SIZE, UffdMode.Missing);
  return { rig, memory, userfault };
}

test('J-5: a pin on a hole is blocked, asks once however often it is made, and comes when the page has', () => {
  const { rig, memory, userfault } = armedRig();
  expect([memory.pin(BASE, 8, 'read'), memory.pin(BASE, 8, 'read')]).toEqual(['blocked', 'blocked']);
  const { queues } = rig.core.uffds;
  expect(queues.counts(userfault.ctx)).toEqual({ pending: 1, read: 0, events: 0 });
  expect(provide(rig.core, userfault.ctx, rig.vpn, 77)).toBe('ok');
  const pin = pinned(memory, BASE, 8, 'read');
  expect(pin.pieces[0]![0]).toBe(77);
  memory.unpin(pin);
  expect(memory.pin(BASE + PAGE_SIZE, 8, 'write')).toBe('blocked');
  memory.close();
  expect(rig.core.slabs.uffdWait.used).toBe(0);
  rig.check();
});

test('J-5, K-30: a manager on the same thread serves devices and vCPUs', () => {
  const { rig, memory, userfault } = armedRig();
  userfault.serveInline(event => {
    if (event.event === 'pagefault') provide(rig.core, userfault.ctx, event.address / PAGE_SIZE, 5);
  });
  expect(memory.pin(BASE, 8, 'write')).toBe('blocked');
  memory.waitBlocked();
  memory.unpin(pinned(memory, BASE, 8, 'write'));
  expect(rig.read(GFN + 1)).toBe(Miss.Blocked);
  rig.core.uffdWaits.wait(rig.kvm.fault.ticket);
  rig.core.uffdWaits.finish(rig.kvm.fault.ticket);
  expect(rig.read(GFN + 1)).toBeGreaterThan(0);
  rig.check();
});

test('T-UF-13: a vCPU and a thread of the VMM that meet at one hole are served by one page', () => {
  const { rig, userfault } = armedRig();
  const { core } = rig;
  expect(rig.write(GFN)).toBe(Miss.Blocked);
  const vcpu = rig.kvm.fault.ticket;
  core.gup.fault(rig.mm, rig.vpn, false);
  const thread = core.gup.ticket;
  expect(provide(core, userfault.ctx, rig.vpn, 3)).toBe('ok');
  for (const ticket of [vcpu, thread]) {
    expect(core.uffdWaits.isOver(ticket)).toBe(true);
    core.uffdWaits.finish(ticket);
  }
  expect(frameByte(rig.write(GFN))).toBe(frameByte(core.gup.fault(rig.mm, rig.vpn, false) & GUP_PFN_MASK));
  core.pages.put(rig.read(GFN));
  rig.check();
});
