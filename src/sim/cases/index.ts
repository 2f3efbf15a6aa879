import type { AnyCase } from '../case.ts';

/** Modules of cases, loaded when first asked for. */
const MODULES: readonly (() => Promise<{ cases: readonly AnyCase[] }>)[] = [
  () => import('./locks.ts'),
  () => import('./flushes.ts'),
  () => import('./faults.ts'),
  () => import('./ranges.ts'),
  () => import('./ageing.ts'),
  () => import('./slots.ts'),
  () => import('./sharing.ts'),
  () => import('./life.ts'),
  () => import('./reverse-map.ts'),
  () => import('./sleepers.ts'),
  () => import('./swapping.ts'),
  () => import('./moving.ts'),
  () => import('./huge.ts'),
  () => import('./userfault.ts'),
  () => import('./shmem.ts'),
  () => import('./merging.ts'),
  () => import('./mlock.ts'),
  () => import('./stores.ts'),
  () => import('./pausing.ts'),
  () => import('./translating.ts'),
  () => import('./fencing.ts'),
];

export async function allCases(): Promise<AnyCase[]> {
  const modules = await Promise.all(MODULES.map(load => load()));
  return modules.flatMap(m => m.cases);
}

/** Throws RangeError when there is none of that name. */
export async function findCase(name: string): Promise<AnyCase> {
  const found = (await allCases()).find(c => c.name === name);
  if (found === undefined) throw new RangeError(`no case '${name}'; see --list`);
  return found;
}
