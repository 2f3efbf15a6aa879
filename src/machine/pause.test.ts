import { expect, test } from 'vitest';
import { MIB } from '../base/units.ts';
import { assemble } from '../cpu/assemble.ts';
import { Request } from '../cpu/interface.ts';
import { AT } from '../cpu/vcpu.ts';
import type { Ptr } from '../sync/struct.ts';
import { load } from './boot.ts';
import { Host } from './host.ts';
import { Machine } from './machine.ts';
import { RAM_BASE } from './memory-map.ts';
import { PAUSE_WORDS, PauseGate, Pauser, Pauses } from './pause.ts';
import { type Round, RunLoop } from './run-loop.ts';

const COUNT = 'again: addi s2, s2, 1\nj again';

/** A guest that counts in s2, a runner of it on this thread, and somebody who pauses it; time is `time.ms`. */
function counting(source = COUNT) {
  const host = Host.create({ frames: 4096, shared: false, swap: { kind: 'none' }, breaks: [] });
  const time = { ms: 0 };
  const monotonicMs = () => time.ms;
  const at = host.mm.heap.alloc(PAUSE_WORDS) as Ptr<'pause'>;
  const config = { memoryBytes: 4 * MIB, commandLine: '', clock: 'real', seed: 1 } as const;
  const ports = { console: () => {}, epochSeconds: 0, random: () => {}, pause: at, monotonicMs };
  const machine = new Machine(host, config, ports);
  load(machine.memory, RAM_BASE, new Uint8Array(assemble(source, RAM_BASE).buffer));
  machine.enter({ pc: RAM_BASE, a1: 0 });
  const inlet = { peek: () => new Uint8Array(0), skip: () => {} };
  const loop = new RunLoop({ machine, inlet, channels: [] });
  const pauses = new Pauses(host.kvm);
  const gate = new PauseGate(pauses, at);
  let woken = 0;
  const gone = { isGone: false };
  const pauser = new Pauser(pauses, at, {
    vcpus: () => machine.harts.vcpus,
    isGone: () => gone.isGone,
    wake: () => woken++,
    monotonicMs,
  });
  return {
    ...{ host, machine, time, gate, pauser, gone },
    /** What a driver does between two looks at the world. */
    round(): Round['kind'] {
      const kind = gate.enter() ? loop.round().kind : 'paused';
      if (kind !== 'on') gate.leave();
      return kind;
    },
    woken: () => woken,
    instret: () => machine.harts.instret(),
  };
}

/** The promise's outcome so far. */
async function stateOf(promise: Promise<void>): Promise<string> {
  await new Promise(resolve => setTimeout(resolve, 20));
  return Promise.race([promise.then(() => 'resolved'), Promise.resolve('pending')]);
}

test('a pause waits until the runner has left the guest, which then retires nothing until it is resumed', async () => {
  const t = counting();
  expect(t.round()).toBe('on');
  const paused = t.pauser.pause();
  expect(await stateOf(paused)).toBe('pending');
  expect(t.round()).toBe('paused');
  await paused;
  const before = t.instret();
  expect([t.round(), t.round(), t.instret()]).toEqual(['paused', 'paused', before]);
  await t.pauser.resume();
  expect([t.round(), t.woken()]).toEqual(['on', 1]);
  expect(t.instret()).toBeGreaterThan(before);
});

test('a runner that sleeps is not waited for, and stays out when it wakes', async () => {
  const t = counting('again: wfi\nj again');
  expect(t.round()).toBe('sleep');
  await t.pauser.pause();
  const before = t.instret();
  t.machine.harts.sendIpi(0);
  expect([t.round(), t.instret()]).toEqual(['paused', before]);
});

test("Pause ends a slice, and a guest's vCPU that is run by mistake runs nothing", async () => {
  const t = counting();
  await t.pauser.pause();
  expect([t.machine.step(), t.machine.step(), t.instret()]).toEqual(['paused', 'paused', 0]);
});

test('pause and resume take effect in the order of the calls; each twice is once', async () => {
  const t = counting();
  await t.pauser.resume();
  expect([t.round(), t.woken()]).toEqual(['on', 0]);
  const calls = [t.pauser.pause(), t.pauser.pause(), t.pauser.resume(), t.pauser.resume(), t.pauser.pause()];
  expect(await stateOf(calls[0]!)).toBe('pending');
  expect(t.round()).toBe('paused');
  await Promise.all(calls);
  expect([t.round(), t.pauser.isPaused, t.woken()]).toEqual(['paused', true, 1]);
});

test("a guest's time stands still while it is paused, and its timer is as far away as it was", async () => {
  const t = counting(
    `csrr s2, time\nli a0, 100000\nadd a0, a0, s2\nli a7, 0x54494d45\nli a6, 0\necall\n${COUNT}`,
  );
  t.time.ms = 5;
  t.round();
  t.gate.leave();
  const [ticks, left] = [t.machine.clock.ticks(), t.machine.sleepMs()];
  expect([ticks, left]).toEqual([50_000, 10]);
  for (let i = 1; i <= 3; i++) {
    await t.pauser.pause();
    t.time.ms += 40_000_000;
    await t.pauser.resume();
  }
  // Each pause is a tick shorter than it was.
  expect(t.machine.clock.ticks() - ticks).toBe(3);
  expect(t.machine.clock.now()).toBe(t.machine.clock.ticks() * 100);
  // The RTC, which goes on.
  expect(t.machine.clock.now() + t.machine.clock.paused()).toBe(t.time.ms * 1e6);
  expect(t.machine.sleepMs()).toBeCloseTo(left, 3);
});

test('a pause too short to count takes no time', async () => {
  const t = counting();
  await t.pauser.pause();
  await t.pauser.resume();
  expect(t.machine.clock.ticks()).toBe(0);
});

test('a flush does not wait for a paused guest, which serves it when it is resumed', async () => {
  const t = counting();
  t.round();
  const paused = t.pauser.pause();
  expect(await stateOf(paused)).toBe('pending');
  t.round();
  await paused;
  t.host.kvm.requests.nameAll(t.machine.vm);
  t.host.kvm.requests.flushRemoteTlbs(t.machine.vm);
  const asked = () => Atomics.load(t.host.words, t.machine.vcpu + AT.requests);
  expect(asked()).toBe(Request.FlushTlb | Request.FlushPages | Request.Pause);
  await t.pauser.resume();
  t.round();
  expect(asked()).toBe(0);
});

test('nothing is done to a guest that is gone', async () => {
  const t = counting();
  t.gone.isGone = true;
  await t.pauser.pause();
  expect([t.pauser.isPaused, t.round()]).toEqual([false, 'on']);
});
