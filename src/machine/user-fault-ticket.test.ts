import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import { Request } from '../cpu/interface.ts';
import { AT } from '../cpu/vcpu.ts';
import { UffdMode, Userfaultfd } from '../mm/index.ts';
import { provide } from '../mm/userfaultfd/manager-testing.ts';
import { load } from './boot.ts';
import { Host } from './host.ts';
import { Machine } from './machine.ts';
import { RAM_BASE } from './memory-map.ts';

/** Loads a word from the page at RAM + 64 KiB, stores it plus one beside it, and asks for shutdown. */
const PROGRAM = [
  0x00010297, // auipc t0, 0x10
  0x0002a303, // lw t1, 0(t0)
  0x00130313, // addi t1, t1, 1
  0x0062a223, // sw t1, 4(t0)
  0x535258b7, // lui a7, 0x53525
  0x35488893, // addi a7, a7, 0x354: system reset
  0x00000813, // li a6, 0
  0x00000513, // li a0, 0
  0x00000593, // li a1, 0
  0x00000073, // ecall
];
const HOLE = 16;

function armedMachine() {
  const host = Host.create({
    frames: 4096,
    shared: false,
    swap: { kind: 'none' },
    breaks: [],
  });
  const machine = new Machine(
    host,
    { memoryBytes: 1 << 20, commandLine: '', clock: 'instret', seed: 1 },
    { console: () => {}, monotonicMs: () => 0, epochSeconds: 0, random: () => {} },
  );
  load(machine.memory, RAM_BASE, new Uint8Array(Uint32Array.from(PROGRAM).buffer));
  host.cpu.reset(machine.vcpu, { hartId: 0, pc: RAM_BASE, a1: 0 });
  const vpn = machine.hva / PAGE_SIZE;
  const arm = () => {
    const userfault = Userfaultfd.create(host.mm, machine.mm, { nonBlock: true });
    userfault.api(0);
    userfault.register(machine.hva, 1 << 20, UffdMode.Missing);
    return userfault;
  };
  const run = () => {
    for (let i = 0; i < 100; i++) {
      const step = machine.step();
      if (step !== 'ran' && !(step === 'blocked' && machine.waitForPage(0))) return step;
    }
    return 'ran';
  };
  const word = (n: number) => host.mm.access.read32(machine.mm, machine.hva + HOLE * PAGE_SIZE + 4 * n);
  return { host, machine, vpn, arm, run, word };
}

test('K-30: a guest whose RAM is armed runs on one thread with the program that supplies its pages', () => {
  const { host, machine, arm, run, word } = armedMachine();
  const userfault = arm();
  const pages: number[] = [];
  userfault.serveInline(event => {
    if (event.event !== 'pagefault') return;
    pages.push((event.address - machine.hva) / PAGE_SIZE);
    provide(host.mm, userfault.ctx, event.address / PAGE_SIZE, 41);
  });
  expect(run()).toBe('shutdown');
  expect([word(0), word(1), pages]).toEqual([41, 42, [HOLE]]);
  machine.destroy();
  userfault.close();
  host.mm.checkInvariants();
});

test('K-31: a guest that waits for a page obeys Stop and goes on where it was, whoever takes it up', () => {
  const { host, machine, vpn, arm, run, word } = armedMachine();
  const userfault = arm();
  expect([run(), run()]).toEqual(['blocked', 'blocked']);
  expect(host.mm.uffds.queues.counts(userfault.ctx)).toEqual({ pending: 1, read: 0, events: 0 });
  Atomics.or(host.words, machine.vcpu + AT.requests, Request.Stop | Request.Kick);
  expect(run()).toBe('stopped');
  Atomics.and(host.words, machine.vcpu + AT.requests, ~Request.Stop);
  expect(run()).toBe('blocked');
  provide(host.mm, userfault.ctx, vpn + HOLE, 6);
  expect([run(), word(1), host.mm.slabs.uffdWait.used]).toEqual(['shutdown', 7, 0]);
  machine.destroy();
  userfault.close();
  host.mm.checkInvariants();
});

test('T-LIFE-09: a machine that is destroyed while its guest waits for a page leaves no entry behind', () => {
  const { host, machine, arm, run } = armedMachine();
  const userfault = arm();
  expect(run()).toBe('blocked');
  machine.destroy();
  userfault.close();
  expect([host.mm.slabs.uffdWait.used, host.mm.slabs.uffd.used, host.mm.slabs.mm.used]).toEqual([0, 0, 0]);
  host.mm.checkInvariants();
});
