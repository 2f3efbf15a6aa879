import { expect, test } from 'vitest';
import { HUGE_FRAMES } from './page-alloc.ts';
import { testMm } from './testing.ts';

/** Takes a run as a fault does: one reference a frame. */
function takeRun(core: ReturnType<typeof testMm>): number {
  const first = core.pageAlloc.allocHuge();
  for (let pfn = first; first >= 0 && pfn < first + HUGE_FRAMES; pfn++) {
    core.layout.page.flags.store(core.pages.at(pfn), 0);
    core.layout.page.refcount.store(core.pages.at(pfn), 1);
  }
  return first;
}

/** Each run's count is the number of its frames on the list. */
function checkRuns(core: ReturnType<typeof testMm>): void {
  const list = core.pageAlloc.freeList();
  for (const { first, free } of core.pageAlloc.runs()) {
    expect(list.filter(pfn => pfn >= first && pfn < first + HUGE_FRAMES).length).toBe(free);
  }
  core.checkInvariants();
}

test('J-1: a huge run is aligned, its frames are freed one by one, and once all are free it is whole again', () => {
  const core = testMm({ frames: 2048 });
  const first = takeRun(core);
  expect(first % HUGE_FRAMES).toBe(0);
  for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) core.pageAlloc.free(pfn);
  checkRuns(core);
  expect(takeRun(core)).toBe(first);
  const single = first + 7;
  for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) if (pfn !== single) core.pageAlloc.free(pfn);
  checkRuns(core);
  const next = takeRun(core);
  expect([next % HUGE_FRAMES, next === first]).toEqual([0, false]);
  for (let pfn = next; pfn < next + HUGE_FRAMES; pfn++) core.pageAlloc.free(pfn);
  core.pageAlloc.free(single);
  checkRuns(core);
});

test('a run leaves the last frames to those whom reclaim needs, and may be made to fail alone', () => {
  const core = testMm({ frames: 2048 });
  core.pageAlloc.failHuge();
  expect(core.pageAlloc.allocHuge()).toBe(-1);
  const runs: number[] = [];
  for (let run = takeRun(core); run >= 0; run = takeRun(core)) runs.push(run);
  expect(runs.length).toBeGreaterThan(1);
  expect(core.pageAlloc.freeFrames).toBeGreaterThan(0);
  for (const run of runs) for (let i = 0; i < HUGE_FRAMES; i++) core.pageAlloc.free(run + i);
  checkRuns(core);
});

test('frames freed in any order are found again, alone and in runs', () => {
  const core = testMm({ frames: 1536 });
  const taken: number[] = [];
  for (let pfn = core.pageAlloc.alloc(); pfn >= 0; pfn = core.pageAlloc.alloc()) taken.push(pfn);
  // A stride that is prime to the number of frames visits them all.
  for (let i = 0; i < taken.length; i++) core.pageAlloc.free(taken[(i * 389) % taken.length] as number);
  checkRuns(core);
  const run = takeRun(core);
  expect(run % HUGE_FRAMES).toBe(0);
  checkRunsWith(core, run);
});

function checkRunsWith(core: ReturnType<typeof testMm>, run: number): void {
  const counted = core.pageAlloc.runs().find(r => r.first === run);
  expect(counted).toEqual({ first: run, free: 0 });
  for (let i = 0; i < HUGE_FRAMES; i++) core.pageAlloc.free(run + i);
  checkRuns(core);
}

test('a run whose frames die is whole again though others live on: the lowest run with a frame gives it', () => {
  const core = testMm({ frames: 4096 });
  const taken: number[] = [];
  for (let i = 0; i < 2048; i++) taken.push(core.pageAlloc.alloc());
  // One in eight lives on, all over the place, the others die in any order; then, as under reclaim, for each
  // that is born another dies.
  let living = taken.filter((_, i) => i % 8 === 0);
  for (let i = 0; i < taken.length; i++) {
    const at = (i * 389) % taken.length;
    if (at % 8 !== 0) core.pageAlloc.free(taken[at] as number);
  }
  for (let round = 0; round < 8; round++) {
    living = living.map((pfn, i) => {
      if ((i + round) % 4 !== 0) return pfn;
      const next = core.pageAlloc.alloc();
      core.pageAlloc.free(pfn);
      return next;
    });
  }
  const whole = core.pageAlloc.runs().filter(({ free }) => free === HUGE_FRAMES);
  expect(whole.length).toBeGreaterThanOrEqual(2);
  expect(takeRun(core)).toBe(whole.at(-1)!.first);
});
