import { describe, expect, test } from 'vitest';
import { MIB } from '../base/units.ts';
import { assemble } from '../cpu/assemble.ts';
import { Request } from '../cpu/interface.ts';
import { AT } from '../cpu/vcpu.ts';
import { load } from './boot.ts';
import { Host } from './host.ts';
import { Machine } from './machine.ts';
import { RAM_BASE } from './memory-map.ts';
import { HartState } from './sbi.ts';

const HSM = '0x48534d';
const IPI = '0x735049';
const SECOND = RAM_BASE + 0x1000;
const DATA = RAM_BASE + 0x4000;

const call = (ext: string, fid: number, ...args: (number | string)[]): string =>
  [...args.map((value, i) => `li a${i}, ${value}`), `li a7, ${ext}`, `li a6, ${fid}`, 'ecall'].join('\n');
const start = call(HSM, 0, 1, SECOND, 77);

/** Two harts on one thread; the first begins at `first`, the second where `start` says. */
function twoHarts(first: string, second: string) {
  const host = Host.create({ frames: 4096, shared: false, swap: { kind: 'none' }, breaks: [] });
  const config = { memoryBytes: 4 * MIB, commandLine: '', clock: 'instret', seed: 1, cpus: 2 } as const;
  const ports = { console: () => {}, monotonicMs: () => 0, epochSeconds: 0, random: () => {} };
  const machine = new Machine(host, config, ports);
  const place = (at: number, source: string) =>
    load(machine.memory, at, new Uint8Array(assemble(`li s11, ${DATA}\n${source}`, at).buffer));
  place(RAM_BASE, `${first}\nend: wfi\nj end`);
  place(SECOND, second);
  machine.enter({ pc: RAM_BASE, a1: 0 });
  return {
    machine,
    host,
    /** Until nobody has anything to do. */
    run() {
      for (let i = 0; i < 1000; i++) {
        const step = machine.step();
        if (step !== 'ran') return step;
      }
      return 'ran';
    },
    x: (hart: number, n: number) => host.cpu.xLo(machine.harts.vcpus[hart]!, n),
  };
}

/** s2 to s5. */
const RESULTS = [18, 19, 20, 21];

describe('harts', () => {
  test('HSM starts a hart where it is told, says how it is, and stops it', () => {
    const t = twoHarts(
      `li sp, 1
       ${call(HSM, 2, 1)}
       mv s2, a1
       ${start}
       ${start}
       mv s3, a0
       sd sp, 16(s11)
       wait: ld t0, 0(s11)
       beqz t0, wait
       poll: ${call(HSM, 2, 1)}
       li t1, 1
       bne a1, t1, poll
       ${call(HSM, 2, 9)}
       mv s4, a0
       ld s5, 8(s11)`,
      `sd a1, 8(s11)\nsd a0, 0(s11)\nstay: ld t0, 16(s11)\nbeqz t0, stay\n${call(HSM, 1)}`,
    );
    expect(t.machine.harts.state(1)).toBe(HartState.Stopped);
    expect(t.run()).toBe('idle');
    expect(RESULTS.map(n => t.x(0, n))).toEqual([HartState.Stopped, -6, -3, 77]);
    expect(t.machine.harts.state(1)).toBe(HartState.Stopped);
    t.machine.destroy();
    t.host.mm.checkInvariants();
  });

  test('the machine ends when the last hart has stopped', () => {
    const t = twoHarts(`${start}\n${call(HSM, 1)}`, `${call(HSM, 1)}`);
    expect(t.run()).toBe('stopped');
  });

  test('an IPI ends a wfi and is taken; one that is masked stays pending', () => {
    const t = twoHarts(
      `${start}
       li s0, 1
       again: ld t0, 0(s11)
       bne t0, s0, again
       ${call(IPI, 0, 2, 0)}
       addi s0, s0, 1
       li t1, 5
       bne s0, t1, again
       mv s2, s0`,
      `li t0, ${SECOND + 0x100}
       csrw stvec, t0
       csrwi sie, 2
       li t0, 1
       sd t0, 0(s11)
       csrsi sstatus, 2
       loop: wfi
       j loop`,
    );
    const handler = 'csrci sip, 2\nld t0, 0(s11)\naddi t0, t0, 1\nsd t0, 0(s11)\nsret';
    load(t.machine.memory, SECOND + 0x100, new Uint8Array(assemble(handler).buffer));
    expect(t.run()).toBe('idle');
    expect(t.x(0, 18)).toBe(5);
    t.machine.harts.clearInterrupt(0, 2);
    t.machine.harts.sendIpi(0);
    expect(t.run()).toBe('idle');
    expect(t.host.words[t.machine.harts.vcpus[0]! + AT.pending]).toBe(2);
  });

  test('a suspended hart says so, and is started again by what ends a wfi', () => {
    const t = twoHarts(
      `${start}
       poll: ${call(HSM, 2, 1)}
       li t1, ${HartState.Suspended}
       bne a1, t1, poll
       mv s2, a1
       ${call(IPI, 0, 2, 0)}
       wait: ld s3, 0(s11)
       beqz s3, wait`,
      `csrwi sie, 2\n${call(HSM, 3, 0, 0, 0)}\ncsrci sip, 2\nli t0, 9\nsd t0, 0(s11)\nloop: wfi\nj loop`,
    );
    expect(t.run()).toBe('idle');
    expect([t.x(0, 18), t.x(0, 19)]).toEqual([HartState.Suspended, 9]);
    expect(t.machine.harts.state(1)).toBe(HartState.Started);
  });

  test('each hart has a timer of its own', () => {
    const timer = (ticks: number) => `csrwi sie, 0\nli t0, 32\ncsrw sie, t0\n${call('0x54494d45', 0, ticks)}`;
    const wait = (n: number) => `${timer(n)}\nwfi\ncsrr s2, time`;
    const t = twoHarts(
      `${start}\n${wait(9000)}\n${call('0x54494d45', 0, -1)}`,
      `${wait(4000)}\n${call(HSM, 1)}`,
    );
    expect(t.run()).toBe('idle');
    const ticks = [t.x(0, 18), t.x(1, 18)];
    expect(ticks[0]).toBeGreaterThanOrEqual(9000);
    expect(ticks[1]).toBeGreaterThanOrEqual(4000);
    expect(ticks[1]).toBeLessThan(9000);
  });

  test('Pause ends the turn of a hart, and takes effect on one that waits', () => {
    const t = twoHarts('spin: j spin', 'wfi');
    expect(t.machine.step()).toBe('ran');
    t.host.kvm.requests.make(t.machine.vcpu, Request.Pause);
    expect(t.run()).toBe('paused');
  });
});
