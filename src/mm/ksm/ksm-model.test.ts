import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmCore } from '../core.ts';
import { at, type Op, op, Run, WINDOW } from '../model-testing.ts';
import { testMm } from '../testing.ts';

// The random scripts of model-testing.ts over pages that are merged between their steps: whatever is written, forked,
// swapped, unmapped or merged, every byte is as a Map has it and every invariant holds after each step.

type KsmOp =
  | { kind: 'scan'; pages: number }
  | { kind: 'same'; page: number; count: number; value: number }
  | { kind: 'mergeable' | 'unmergeable'; page: number; count: number }
  | { kind: 'spawn' | 'unmergeAll' | 'hints' }
  | { kind: 'pageout'; page: number; count: number };
type Step = [Op | KsmOp, number];

const page = fc.nat(WINDOW - 1);
const count = fc.integer({ min: 1, max: 24 });
const kind = <K extends KsmOp['kind']>(...kinds: K[]) => fc.constantFrom(...kinds);
const ksmOp: fc.Arbitrary<KsmOp> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: kind('scan'), pages: fc.integer({ min: 1, max: 200 }) }) },
  { weight: 6, arbitrary: fc.record({ kind: kind('same'), page, count, value: fc.nat(2) }) },
  { weight: 3, arbitrary: fc.record({ kind: kind('mergeable'), page, count }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('unmergeable'), page, count }) },
  { weight: 3, arbitrary: fc.record({ kind: kind('pageout'), page, count }) },
  { weight: 1, arbitrary: fc.record({ kind: kind('spawn', 'unmergeAll', 'hints') }) },
);
const script = fc.array(
  fc.tuple(fc.oneof({ weight: 1, arbitrary: op }, { weight: 1, arbitrary: ksmOp }), fc.nat(4)),
  { minLength: 40, maxLength: 120 },
);

class KsmRun extends Run {
  /** A second address space of the same group and owner, related to none, is in every run. */
  constructor(mm: MmCore) {
    super(mm);
    mm.ksm.set('use_zero_pages', 1);
    this.spawn();
    for (const { mm: space } of this.spaces) mm.madvise.advise(space, at(0), WINDOW * PAGE_SIZE, 'mergeable');
  }

  spawn(): void {
    if (this.spaces.length > 3) return;
    const memcg = this.mm.layout.mm.memcg.get(this.spaces[0]!.mm);
    const space = { mm: this.mm.createMm({ memcg }), model: new Map(), unknown: new Set<number>() };
    this.spaces.push(space);
    this.map(space, 0, WINDOW, false);
  }

  run([step, number]: Step): void {
    const space = this.spaces[number % this.spaces.length]!;
    const end = 'count' in step && 'page' in step ? Math.min(WINDOW, step.page + step.count) : 0;
    switch (step.kind) {
      case 'scan':
        for (let left = step.pages; left > 0; left -= 50) this.mm.ksm.scan(left);
        break;
      case 'same':
        for (let p = step.page; p < end; p++) this.write(space, p, step.value);
        break;
      case 'mergeable':
      case 'unmergeable':
      case 'pageout':
        this.advise(space, step.page, end, step.kind);
        break;
      case 'spawn':
        this.spawn();
        break;
      case 'unmergeAll':
        this.mm.ksm.set('run', 2);
        break;
      case 'hints':
        this.mm.numa.changeProtNuma(space.mm, at(0) / PAGE_SIZE, at(WINDOW) / PAGE_SIZE);
        break;
      default:
        this.step({ ...step, space: number });
    }
  }
}

function runScript(breaks: Partial<MmBreaks>, steps: Step[]): void {
  const mm = testMm({ frames: 512, swap: { kind: 'zram', bytes: 4 << 20 }, breaks });
  const run = new KsmRun(mm);
  for (const step of steps) {
    run.run(step);
    mm.checkInvariants();
  }
  run.readAll();
  mm.checkInvariants();
  run.end();
  mm.ksm.fullScans(1);
  expect([mm.slabs.ksmItem.used, mm.slabs.ksmNode.used, mm.slabs.anonVma.used]).toEqual([0, 0, 0]);
}

test('C-21: random writes, forks, swaps and scans leave every byte as a Map has it', () => {
  fc.assert(
    fc.property(script, steps => runScript({}, steps)),
    { seed: Number(process.env.KSM_SEED ?? 5), numRuns: Number(process.env.KSM_RUNS ?? 8) },
  );
});

test.each(['ksmReuse', 'ksmSwapInAnywhere', 'ksmNoOrphans'] as const)(
  'with %s the script fails, so it can',
  name => {
    const result = fc.check(
      fc.property(script, steps => runScript({ [name]: true }, steps)),
      { seed: 5, numRuns: 60, endOnFailure: true },
    );
    expect(result.failed).toBe(true);
  },
);
