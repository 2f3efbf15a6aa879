import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { instretClock, realClock } from './clock.ts';

/** 25 instructions a tick of 100 ns. */
const PER_TICK = 25;

function virtual(start = 0) {
  const cpu = { instret: start };
  return { cpu, clock: instretClock(() => cpu.instret) };
}

test('virtual time is the count of instructions, from an epoch that is the same for all', () => {
  const { cpu, clock } = virtual();
  expect([clock.ticks(), clock.now(), clock.epochSeconds]).toEqual([0, 0, Date.UTC(2026, 0, 1) / 1000]);
  cpu.instret = 24;
  expect(clock.ticks()).toBe(0);
  cpu.instret = 250_000_000;
  expect([clock.ticks(), clock.now()]).toEqual([10_000_000, 1e9]);
});

test('a budget ends with the instruction at which the deadline comes', () => {
  const { cpu, clock } = virtual();
  for (const instret of [0, 1, 24, 25, 26]) {
    cpu.instret = instret;
    const budget = clock.budgetUntil(4, 1e6);
    cpu.instret += budget;
    expect(clock.ticks()).toBeGreaterThanOrEqual(4);
    expect(budget).toBeLessThanOrEqual(4 * PER_TICK);
  }
});

test('a budget is the limit for a deadline far away, in the past, or never', () => {
  const { cpu, clock } = virtual();
  cpu.instret = 100 * PER_TICK;
  expect([1e9, 100, 3, Number.POSITIVE_INFINITY, 2 ** 64].map(d => clock.budgetUntil(d, 5000))).toEqual([
    5000, 5000, 5000, 5000, 5000,
  ]);
});

test('sleep jumps to its deadline, never back, and takes no time of the host', () => {
  const { cpu, clock } = virtual();
  expect(clock.skipTo(1000)).toBe(true);
  expect([clock.ticks(), clock.millisecondsUntil(5000)]).toEqual([1000, 0]);
  expect(clock.skipTo(10)).toBe(true);
  expect(clock.ticks()).toBe(1000);
  cpu.instret = PER_TICK;
  expect(clock.ticks()).toBe(1001);
});

test('sleep until never leaves time where it is', () => {
  const { clock } = virtual();
  for (const never of [Number.POSITIVE_INFINITY, 2 ** 64, Number.MAX_SAFE_INTEGER]) clock.skipTo(never);
  expect(clock.ticks()).toBe(0);
});

test('running to each deadline or sleeping until it, time only goes on, and deadlines are met exactly', () => {
  const random = new Random(12);
  const { cpu, clock } = virtual();
  for (let i = 0; i < 2000; i++) {
    const before = clock.ticks();
    const deadline = before + 1 + random.below(500);
    if (random.below(2) === 0) clock.skipTo(deadline);
    else while (clock.ticks() < deadline) cpu.instret += clock.budgetUntil(deadline, 1 + random.below(4000));
    expect(clock.ticks()).toBe(deadline);
  }
});

test('real time begins with the machine, runs as the host says, and asks to wait', () => {
  let ms = 5000;
  const clock = realClock(() => ms, 77);
  expect([clock.ticks(), clock.now(), clock.epochSeconds]).toEqual([0, 0, 77]);
  ms += 2.5;
  expect([clock.ticks(), clock.now()]).toEqual([25_000, 2_500_000]);
  expect([clock.budgetUntil(1, 999), clock.skipTo(1e9)]).toEqual([999, false]);
  expect([clock.millisecondsUntil(35_000), clock.millisecondsUntil(3)]).toEqual([1, 0]);
});

test('real time leaves out what the guest was paused, and says how much that was', () => {
  let [ms, lost] = [5000, 0];
  const clock = realClock(
    () => ms,
    77,
    4000,
    () => lost,
  );
  [ms, lost] = [9000, 39_999_999];
  expect([clock.ticks(), clock.now(), clock.paused()]).toEqual([10_000_001, 1_000_000_100, 3_999_999_900]);
});
