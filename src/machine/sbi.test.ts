import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { ascii, TEST_RAM, TestMemory } from '../devices/testing.ts';
import { HartState, handleSbi, SbiExtension, type SbiPorts } from './sbi.ts';

let log: string[];
let memory: TestMemory;
let input: number[];
let states: HartState[];
let ports: SbiPorts;
beforeEach(() => {
  log = [];
  memory = new TestMemory(8);
  input = [];
  states = [HartState.Started, HartState.Stopped, HartState.Started];
  ports = {
    harts: 3,
    memory,
    console: {
      write: bytes => log.push(`console ${String.fromCharCode(...bytes)}`),
      read: max => Uint8Array.from(input.splice(0, max)),
    },
    setTimer: (hart, ticks) => log.push(`timer ${hart} ${ticks}`),
    sendIpi: hart => log.push(`ipi ${hart}`),
    remoteFence: (harts, fence) => log.push(`fence ${harts} ${JSON.stringify(fence)}`),
    hartState: hart => states[hart]!,
    hartStart: (hart, start) => log.push(`start ${hart} ${JSON.stringify(start)}`) > 0,
  };
});

/** Arguments as 64-bit integers; BigInt for those that a number can't hold. */
function call(ext: number, fid: number, ...values: (number | bigint)[]) {
  const args = new Int32Array(12);
  values.forEach((value, index) => {
    const wide = BigInt.asUintN(64, BigInt(value));
    args[index * 2] = Number(wide & 0xffff_ffffn);
    args[index * 2 + 1] = Number(wide >> 32n);
  });
  return handleSbi({ hart: 0, ext, fid, args }, ports);
}

const answer = (error: number, value = 0) => ({ kind: 'return', error, value });
const { Base, Time, Ipi, Rfence, Hsm, Srst, Dbcn } = SbiExtension;

describe('SBI', () => {
  test('BASE tells version 2.0 and which extensions there are', () => {
    expect(call(Base, 0)).toEqual(answer(0, 0x0200_0000));
    const offered = [Base, Time, Ipi, Rfence, Hsm, Srst, Dbcn].map(ext => call(Base, 3, ext));
    expect(offered).toEqual(new Array(7).fill(answer(0, 1)));
    const absent = [0, 1, 0x504d55, 0x53555350, 0x1_0000_0010].map(ext => call(Base, 3, ext));
    expect(absent).toEqual(new Array(5).fill(answer(0, 0)));
    expect([call(Base, 4), call(Base, 5), call(Base, 6)]).toEqual(new Array(3).fill(answer(0, 0)));
  });

  test('what is not offered is not supported', () => {
    const calls = [
      call(0, 0),
      call(0x504d55, 0),
      call(Base, 7),
      call(Time, 1),
      call(Rfence, 3),
      call(Srst, 1),
      call(Dbcn, 3),
    ];
    expect(calls).toEqual(new Array(7).fill(answer(-2)));
    expect(log).toEqual([]);
  });

  test('set_timer takes 64 bits, and what is past all clocks is never', () => {
    for (const ticks of [5, 2 ** 40, -1n, 2n ** 53n]) expect(call(Time, 0, ticks)).toEqual(answer(0));
    expect(log).toEqual(['timer 0 5', `timer 0 ${2 ** 40}`, 'timer 0 Infinity', 'timer 0 Infinity']);
  });

  test('send_ipi goes to the harts of a mask, or to all, or to none if one does not exist', () => {
    expect(call(Ipi, 0, 0b101, 0)).toEqual(answer(0));
    expect(call(Ipi, 0, 0b1, 2)).toEqual(answer(0));
    expect(call(Ipi, 0, 0, -1n)).toEqual(answer(0));
    expect(call(Ipi, 0, 0b1001, 0)).toEqual(answer(-3));
    expect(call(Ipi, 0, 1n << 63n, 0)).toEqual(answer(-3));
    expect(call(Ipi, 0, 1, 2n ** 60n)).toEqual(answer(-3));
    expect(log).toEqual(['ipi 0', 'ipi 2', 'ipi 2', 'ipi 0', 'ipi 1', 'ipi 2']);
  });

  test('fences name their range and address space', () => {
    call(Rfence, 0, 1, 1);
    call(Rfence, 1, 1, 0, 0xffff_ffff_8000_0000n, 0x2000);
    call(Rfence, 1, 1, 0, 0, 0);
    call(Rfence, 2, 1, 0, 0x1000, -1n, 7);
    const fences = log.map(line => line.replace(/^fence (\d) /, '$1'));
    expect(fences).toEqual([
      '1{"kind":"instruction"}',
      '0{"kind":"address","startLo":2147483648,"startHi":4294967295,"length":8192}',
      // JSON has no Infinity and writes null.
      '0{"kind":"address","startLo":0,"startHi":0,"length":null}',
      '0{"kind":"address","startLo":4096,"startHi":0,"length":null,"asid":7}',
    ]);
  });

  test('HSM starts a stopped hart, and tells the states of all', () => {
    expect(call(Hsm, 0, 1, 0x8020_0000, 0xffff_ffff_0000_0001n)).toEqual(answer(0));
    expect(log).toEqual([
      'start 1 {"addressLo":2149580800,"addressHi":0,"opaqueLo":1,"opaqueHi":4294967295}',
    ]);
    expect([call(Hsm, 0, 2, 0, 0), call(Hsm, 0, 3, 0, 0)]).toEqual([answer(-6), answer(-3)]);
    expect([0, 1, 2, 3].map(hart => call(Hsm, 2, hart))).toEqual([
      answer(0, 0),
      answer(0, 1),
      answer(0, 0),
      answer(-3),
    ]);
    expect(call(Hsm, 1)).toEqual({ kind: 'hart-stop' });
    expect(call(Hsm, 3, 0)).toEqual({ kind: 'suspend' });
    expect([call(Hsm, 3, 0x8000_0000), call(Hsm, 3, 5)]).toEqual([answer(-2), answer(-3)]);
  });

  test('system_reset stops or restarts, and refuses what is reserved', () => {
    expect(call(Srst, 0, 0, 0)).toEqual({ kind: 'reset', type: 'shutdown', failed: false });
    expect(call(Srst, 0, 1, 1)).toEqual({ kind: 'reset', type: 'cold-reboot', failed: true });
    expect(call(Srst, 0, 2, 0)).toEqual({ kind: 'reset', type: 'warm-reboot', failed: false });
    expect([call(Srst, 0, 3, 0), call(Srst, 0, 0, 2)]).toEqual([answer(-3), answer(-3)]);
  });

  test('the debug console writes from guest memory, at most a page at a time', () => {
    const text = ascii('x'.repeat(4000) + 'y'.repeat(1000));
    memory.put(TEST_RAM + 100, text);
    expect(call(Dbcn, 0, 5000, TEST_RAM + 100, 0)).toEqual(answer(0, 4096));
    expect(log.map(line => line.slice(8)).join('')).toBe('x'.repeat(4000) + 'y'.repeat(96));
    expect(call(Dbcn, 2, 0x141)).toEqual(answer(0));
    expect(log.at(-1)).toBe('console A');
    expect(call(Dbcn, 0, 0, 0, 0)).toEqual(answer(0, 0));
  });

  test('the debug console refuses addresses that are not memory', () => {
    for (const [length, address] of [
      [1, 0x1000],
      [8, TEST_RAM + 8 * 4096 - 4],
      [1, -1n],
      [-1n, -1n],
    ] as const) {
      expect(call(Dbcn, 0, length, address, 0)).toEqual(answer(-3));
      expect(call(Dbcn, 1, length, address, 0)).toEqual(answer(-3));
    }
    expect(call(Dbcn, 0, 4, TEST_RAM, 1)).toEqual(answer(-3));
    expect([log, memory.pinned]).toEqual([[], 0]);
  });

  test('a blocked console call does nothing, and takes no input', () => {
    input = [...ascii('keys')];
    memory.put(TEST_RAM + 4094, ascii('out!'));
    memory.away.add((TEST_RAM + 4096) / 4096);
    expect(call(Dbcn, 0, 4, TEST_RAM + 4094)).toEqual({ kind: 'blocked' });
    expect(call(Dbcn, 1, 8, TEST_RAM + 4094)).toEqual({ kind: 'blocked' });
    expect([log, input.length, memory.pinned]).toEqual([[], 4, 0]);
    memory.away.clear();
    expect(call(Dbcn, 0, 4, TEST_RAM + 4094)).toEqual(answer(0, 4));
    expect(log.map(line => line.slice(8)).join('')).toBe('out!');
    expect(call(Dbcn, 1, 8, TEST_RAM + 4094)).toEqual(answer(0, 4));
    expect(memory.bytes(TEST_RAM + 4094, 4)).toEqual(ascii('keys'));
    expect(memory.pinned).toBe(0);
  });

  test('any call is answered, and no pin is left', () => {
    const value = fc.oneof(
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.constantFrom(0n, 1n, 2n ** 64n - 1n, BigInt(TEST_RAM)),
    );
    const ext = fc.oneof(fc.constantFrom(Base, Time, Ipi, Rfence, Hsm, Srst, Dbcn), fc.nat(0xffff_ffff));
    fc.assert(
      fc.property(
        ext,
        fc.oneof(fc.nat(6), fc.nat(0xffff_ffff)),
        fc.array(value, { maxLength: 6 }),
        (e, f, values) => {
          const outcome = call(e, f, ...values);
          if (outcome.kind === 'return') expect(Number.isSafeInteger(outcome.value)).toBe(true);
          expect(memory.pinned).toBe(0);
        },
      ),
      { seed: 20, numRuns: 1000 },
    );
  });
});
