import { afterAll, beforeAll, expect, test } from 'vitest';
import { Arena } from '../sync/arena.ts';
import { Sync } from '../sync/sync.ts';
import { findCase } from './cases/index.ts';
import { explore, Session } from './explorer.ts';
import { Pool } from './pool.ts';

/** The yield points of the specification's T.0, in program order. */
const POINTS = {
  fault: 'F.enter F.slot F.s F.pre1 F.p F.pre2 F.L F.c F.i F.U F.r F.t F.a',
  'invalidate_page (seed08)': 'I.P I.b I.l I.z I.f I.u I.e I.x',
  'range (modern)': 'S.a S.l S.n S.z S.f S.u M.0 M.k E.l E.q E.d E.u E.a M.x',
  age: 'A.p A.l A.z A.u A.f',
  slot: 'G.w G.pub G.sync G.gen G.zap',
  'user fault': 'U.v U.n U.al U.t U.ul U.q U.w U.d U.k U.r',
  reader: 'R.d R.m R.o',
  resolver: 'V.g V.v V.c V.t V.i V.u V.b V.k',
  mutator: 'X.ev X.rd X.z X.c',
} as const;

/** Transitions that ours doesn't make by themselves. */
const NOT_APART: Readonly<Record<string, string>> = {
  'F.pre1': 'K-24 (3) is optional, and left out',
  'F.pre2': 'K-24 (5) is optional, and left out; a mutant looks there instead of under mmu_lock',
  'R.d': 'off one queue and on the other under one hold of their lock; a mutant lets go between',
  'X.z': 'the change is that of whoever mutates: M.0 to M.k',
};

/** Cases that between them pass all others. */
const RUNS: readonly (readonly [name: string, profile: string])[] = [
  ['T-FIP-discard', 'seed08'],
  ['T-FIP-swap', 'seed08'],
  ['T-FIP-discard', 'modern'],
  ['T-AGE-03', 'modern'],
  ['T-SLOT-06', 'modern'],
  ['T-SLOT-07', 'modern'],
  ['T-ZERO-05', 'modern'],
  ['T-DN-01', 'modern'],
];

let pool: Pool;
beforeAll(() => {
  pool = new Pool();
});
afterAll(() => pool.close());

async function labelsOf(name: string, profile: string, breaks: object = {}): Promise<string[]> {
  const session = new Session(pool, await findCase(name), profile, breaks);
  await session.load();
  const options = { preemptions: 1, random: 5, atomics: 0, seed: 1, maxSchedules: 60 };
  return [...explore(session, {}, options).points];
}

test('J-6 every yield point of T.0 is passed by the explorer', async () => {
  const seen = new Set<string>();
  for (const [name, profile] of RUNS) for (const label of await labelsOf(name, profile)) seen.add(label);
  const named = Object.values(POINTS).flatMap(labels => labels.split(' '));
  const missing = named.filter(label => !seen.has(label));
  expect(missing).toEqual(Object.keys(NOT_APART));
});

test('J-6 a window that a rule has closed is a point again where the rule is off', async () => {
  expect(await labelsOf('T-FIP-discard', 'modern', { kvm: { checkUnlocked: true } })).toContain('F.pre2');
  expect(await labelsOf('T-UF-07', 'modern', { mm: { refileInTwoSteps: true } })).toContain('R.d');
});

test('J-6 in production a point is one function that does nothing, on every thread the same', () => {
  const [one, other] = [true, false].map(shared => {
    return new Sync(Arena.create({ frames: 16, heapBytes: 4096, shared })).y;
  });
  expect([one === other, one!('F.enter')]).toEqual([true, undefined]);
});
