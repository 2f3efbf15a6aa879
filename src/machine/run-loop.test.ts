import { expect, test } from 'vitest';
import { MIB } from '../base/units.ts';
import { assemble } from '../cpu/assemble.ts';
import { load } from './boot.ts';
import { Host } from './host.ts';
import { Machine } from './machine.ts';
import { RAM_BASE } from './memory-map.ts';
import { RunLoop } from './run-loop.ts';

/** A guest that executes a program at the start of RAM, driven round by round. */
function loopOver(host: Host, source: string) {
  const config = {
    memoryBytes: 4 * MIB,
    memoryLimitBytes: 4 * MIB,
    commandLine: '',
    clock: 'instret',
    seed: 1,
  } as const;
  const ports = { console: () => {}, monotonicMs: () => 0, epochSeconds: 0, random: () => {} };
  const machine = new Machine(host, config, ports);
  load(machine.memory, RAM_BASE, new Uint8Array(assemble(source, RAM_BASE).buffer));
  host.cpu.reset(machine.vcpu, { hartId: 0, pc: RAM_BASE, a1: 0 });
  const inlet = { peek: () => new Uint8Array(0), skip: () => {} };
  return { machine, loop: new RunLoop({ machine, inlet, channels: [] }) };
}

test('O-10 a guest counts as a task of its group while it has something to do, and no longer', () => {
  const host = Host.create({ frames: 4096, shared: false, swap: { kind: 'none' }, breaks: [] });
  const busy = loopOver(host, 'again:\n  j again');
  const idle = loopOver(host, 'again:\n  wfi\n  j again');
  const memcg = host.mm.layout.mm.memcg.get(busy.machine.mm);
  const running = (): number[] => [0 as typeof memcg, memcg].map(m => host.mm.psi.tasks(m).running);
  expect(running()).toEqual([0, 0]);
  expect(busy.loop.round().kind).toBe('on');
  busy.loop.round();
  expect(running()).toEqual([1, 1]);
  expect(idle.loop.round().kind).toBe('sleep');
  expect(running()).toEqual([1, 1]);
  busy.machine.destroy();
  expect(running()[0]).toBe(0);
  host.mm.checkInvariants();
});
