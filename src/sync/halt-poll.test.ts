import { expect, test } from 'vitest';
import { HaltPoll } from './halt-poll.ts';
import type { Waiter } from './waiter.ts';

/** A waiter that notes each sleep, and how long the caller was willing to look before it. */
function recorder(sleepMs: number) {
  const looked: number[] = [];
  let sleeps = 0;
  const waiter: Waiter = {
    wait() {
      sleeps++;
      for (const end = performance.now() + sleepMs; performance.now() < end; );
      return 'ok';
    },
    notify() {},
    point() {},
    spins(limit) {
      looked.push(limit);
      return limit;
    },
  };
  return { waiter, looked, sleeps: () => sleeps };
}

test('a word that has changed already is not slept on', () => {
  const { waiter, sleeps } = recorder(0);
  new HaltPoll(new Int32Array([7]), waiter).wait(0, 6);
  expect(sleeps()).toBe(0);
});

test('sleeps that were long make it look for less time, in the end not at all', () => {
  const { waiter, looked, sleeps } = recorder(0.3);
  const poll = new HaltPoll(new Int32Array([7]), waiter);
  for (let i = 0; i < 12; i++) poll.wait(0, 7);
  expect(sleeps()).toBe(12);
  expect(looked.at(-1)).toBe(0);
  expect(looked).toEqual([...looked].sort((a, b) => b - a));
});

test('the explorer, which allows no looks, sleeps at once', () => {
  const { waiter, sleeps } = recorder(0);
  new HaltPoll(new Int32Array([7]), { ...waiter, spins: () => 0 }).wait(0, 7);
  expect(sleeps()).toBe(1);
});
