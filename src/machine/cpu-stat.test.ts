import { expect, test } from 'vitest';
import { MIB } from '../base/units.ts';
import { assemble } from '../cpu/assemble.ts';
import type { Events } from '../cpu/counters.ts';
import type { VcpuPtr } from '../cpu/interface.ts';
import { load } from './boot.ts';
import { Host } from './host.ts';
import { Machine } from './machine.ts';
import { RAM_BASE } from './memory-map.ts';

const SECOND = RAM_BASE + 0x1000;
const START_SECOND = `li a0, 1\nli a1, ${SECOND}\nli a7, 0x48534d\nli a6, 0\necall`;
const SLEEP = 'end: wfi\nj end';

/** A Host with a guest of two harts, which have come to rest. */
function ran(host = Host.create({ frames: 8192, shared: false, swap: { kind: 'none' }, breaks: [] })) {
  const config = { memoryBytes: 4 * MIB, commandLine: '', clock: 'instret', seed: 1, cpus: 2 } as const;
  const ports = { console: () => {}, monotonicMs: () => 0, epochSeconds: 0, random: () => {} };
  const machine = new Machine(host, config, ports);
  const place = (at: number, source: string) =>
    load(machine.memory, at, new Uint8Array(assemble(`${source}\n${SLEEP}`, at).buffer));
  place(RAM_BASE, START_SECOND);
  place(SECOND, `li s0, ${SECOND + 0x1000}\nsd s0, 0(s0)`);
  machine.enter({ pc: RAM_BASE, a1: 0 });
  for (let i = 0; i < 1000 && machine.step() === 'ran'; i++);
  return { host, guest: machine.guest };
}

const sum = (host: Host, vcpus: readonly VcpuPtr[], key: keyof Events): number =>
  vcpus.reduce((total, vcpu) => total + host.cpu.events(vcpu)[key], 0);

test("a guest's CPU is told of as the sum over its vCPUs", () => {
  const { host, guest } = ran();
  const stat = host.cpuStat(guest.vm);
  const [first, second] = guest.vcpus.map(vcpu => host.cpu.events(vcpu));
  // Each fetched from its page, and the second wrote one.
  expect([first!.tlb_misses, second!.tlb_misses]).toEqual([1, 2]);
  for (const key of Object.keys(first!) as (keyof Events)[]) {
    expect([key, stat[key]]).toEqual([key, sum(host, guest.vcpus, key)]);
  }
  expect(stat).toMatchObject({ regions: 0, region_wasm_bytes: 0, region_microseconds: 0 });
  expect(stat.instret).toBe(guest.vcpus.reduce((total, vcpu) => total + host.cpu.instret(vcpu), 0));
  expect(stat.instret).toBeGreaterThan(12);
});

test('the counters of a Host have the sum over its guests, by the same names', () => {
  const { host, guest: a } = ran();
  const { guest: b } = ran(host);
  const [one, other] = [host.cpuStat(a.vm), host.cpuStat(b.vm)];
  const both = Object.entries(one).map(([key, value]) => [key, value + other[key as keyof Events]]);
  expect(host.counters()).toMatchObject(Object.fromEntries(both));
});
