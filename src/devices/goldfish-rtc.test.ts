import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { GoldfishRtc } from './goldfish-rtc.ts';
import { TestClock, TestLine } from './testing.ts';

const TIME_LOW = 0x00;
const TIME_HIGH = 0x04;
const ALARM_LOW = 0x08;
const ALARM_HIGH = 0x0c;
const IRQ_ENABLED = 0x10;
const CLEAR_ALARM = 0x14;
const ALARM_STATUS = 0x18;
const CLEAR_INTERRUPT = 0x1c;

let clock: TestClock;
let line: TestLine;
let rtc: GoldfishRtc;
beforeEach(() => {
  clock = new TestClock();
  line = new TestLine();
  rtc = new GoldfishRtc({ irq: line, clock });
});

function now(device: GoldfishRtc): bigint {
  const low = device.read(TIME_LOW, 4);
  return (BigInt(device.read(TIME_HIGH, 4)) << 32n) | BigInt(low);
}

function setTime(ns: bigint): void {
  rtc.write(TIME_HIGH, 4, Number(ns >> 32n));
  rtc.write(TIME_LOW, 4, Number(ns & 0xffff_ffffn));
}

function setAlarm(ns: bigint): void {
  rtc.write(ALARM_HIGH, 4, Number(ns >> 32n));
  rtc.write(ALARM_LOW, 4, Number(ns & 0xffff_ffffn));
  rtc.write(IRQ_ENABLED, 4, 1);
}

describe('goldfish RTC', () => {
  test('tells nanoseconds since 1970, its halves from one moment', () => {
    clock.ns = 123;
    expect(now(rtc)).toBe(1_700_000_000_000_000_123n);
    const low = rtc.read(TIME_LOW, 4);
    clock.ns += 5_000_000_000;
    expect((BigInt(rtc.read(TIME_HIGH, 4)) << 32n) | BigInt(low)).toBe(1_700_000_000_000_000_123n);
  });

  test('goes on while the guest is paused, and an alarm of that time rings after it', () => {
    const before = now(rtc);
    setAlarm(before + 500n);
    clock.pausedNs = 600;
    expect(now(rtc)).toBe(before + 600n);
    expect(rtc.nextDeadline()).toBe(0);
    rtc.poll();
    expect(line.level).toBe(true);
  });

  test('goes on from the time it is set to, before or after the real one', () => {
    for (const time of [5n, 4_000_000_000_000_000_000n]) {
      setTime(time);
      clock.ns += 1000;
      expect(now(rtc)).toBe(time + 1000n);
    }
  });

  test('rings once at its time, and only if enabled', () => {
    setAlarm(now(rtc) + 500n);
    expect([rtc.nextDeadline(), rtc.read(ALARM_STATUS, 4)]).toEqual([500, 1]);
    clock.ns = 499;
    rtc.poll();
    expect(line.level).toBe(false);
    clock.ns = 500;
    rtc.poll();
    expect([line.level, rtc.read(ALARM_STATUS, 4), rtc.nextDeadline()]).toEqual([
      true,
      0,
      Number.POSITIVE_INFINITY,
    ]);
    rtc.write(IRQ_ENABLED, 4, 0);
    expect(line.level).toBe(false);
    rtc.write(IRQ_ENABLED, 4, 1);
    rtc.write(CLEAR_INTERRUPT, 4, 1);
    expect(line.level).toBe(false);
  });

  test('an alarm in the past rings at once, and a cleared one never', () => {
    setAlarm(now(rtc) - 1n);
    expect(line.level).toBe(true);
    rtc.write(CLEAR_INTERRUPT, 4, 1);
    setAlarm(now(rtc) + 10n);
    rtc.write(CLEAR_ALARM, 4, 1);
    clock.ns += 100;
    rtc.poll();
    expect(line.level).toBe(false);
  });

  test('a state saved with an alarm running rings in a fresh clock', () => {
    setTime(1_000_000n);
    setAlarm(1_000_700n);
    const freshLine = new TestLine();
    const fresh = new GoldfishRtc({ irq: freshLine, clock });
    fresh.load(structuredClone(rtc.save()));
    expect(fresh.save()).toEqual(rtc.save());
    clock.ns += 700;
    fresh.poll();
    expect([freshLine.level, now(fresh)]).toEqual([true, 1_000_700n]);
    expect(() => fresh.load({ ...rtc.save(), alarm: [0, 0] })).toThrow('EINVAL');
  });

  test('any access is answered with 32 bits, and the deadline is never past', () => {
    const access = fc.record({ offset: fc.nat(0x24), value: fc.nat(0xffff_ffff), write: fc.boolean() });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 40 }), accesses => {
        const device = new GoldfishRtc({ irq: new TestLine(), clock });
        for (const { offset, value, write } of accesses) {
          if (write) device.write(offset, 4, value);
          else expect(device.read(offset, 4)).toSatisfy((v: number) => v >= 0 && v <= 0xffff_ffff);
          device.poll();
          expect(device.nextDeadline()).toBeGreaterThanOrEqual(clock.now());
        }
      }),
      { seed: 1970, numRuns: 200 },
    );
  });
});
