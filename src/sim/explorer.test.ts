import { afterAll, beforeAll, expect, test } from 'vitest';
import { findCase } from './cases/index.ts';
import { explore, Session } from './explorer.ts';
import { Pool } from './pool.ts';
import { parsePlan } from './schedule.ts';

// A small share of `npm run explore`, and the explorer's own promises.

let pool: Pool;
beforeAll(() => {
  pool = new Pool();
});
afterAll(() => pool.close());

const OPTIONS = { preemptions: 1, random: 10, atomics: 0, seed: 1, maxSchedules: 5_000 };

async function session(name: string, mutant?: string): Promise<Session> {
  const found = await findCase(name);
  const breaks = found.mutants.find(m => m.name === mutant)?.breaks ?? {};
  const s = new Session(pool, found, found.profiles[0] as string, breaks);
  await s.load();
  return s;
}

test('the mutex excludes and loses no wake-up in any schedule of one preemption', async () => {
  const found = explore(await session('mutex'), {}, OPTIONS);
  expect(found.failure).toBeUndefined();
  expect(found.complete).toBe(true);
});

test('a wake-up left out is reported as a deadlock, with the schedule that leads there', async () => {
  const found = explore(await session('mutex', 'no notify'), {}, OPTIONS);
  expect(found.failure?.reason).toMatch(/^deadlock: everybody sleeps c@\d+/);
  const s = await session('mutex', 'no notify');
  const again = s.run(parsePlan(found.failure!.schedule, s.actors));
  expect(again.wrong).toBe(found.failure!.reason);
});

test('a reader without the recheck is seen to read half of a write', async () => {
  const s = await session('seqcount', 'no retry');
  expect(explore(s, {}, OPTIONS).failure?.reason).toContain('half of a write');
});

test('a fault against MADV_DONTNEED is right in every schedule of one preemption', async () => {
  const found = explore(await session('T-FIP-discard'), {}, OPTIONS);
  expect(found.failure).toBeUndefined();
  expect(found.complete).toBe(true);
});

test('a fault that ignores the sequence is seen to leave a stale leaf', async () => {
  const s = await session('T-FIP-discard', 'ignore the sequence (T-FIP-03, T-FIR-03)');
  expect(explore(s, {}, OPTIONS).failure?.reason).toMatch(/^V1: /);
});

test('the same schedule and the same seed give the same trace every time', async () => {
  const s = await session('seqcount');
  const runs = [0, 1].map(() => [s.run([2, 2, 0], 0).trace, s.run([], 99).trace]);
  expect(runs[0]).toEqual(runs[1]);
});

test('a schedule that names an actor which cannot run there is refused, not bent', async () => {
  const s = await session('mutex');
  const { decisions } = s.run([]);
  const past = Array.from({ length: decisions.length + 5 }, () => 0);
  expect(s.run(past).wrong).toContain('cannot run there');
});
