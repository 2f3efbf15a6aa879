import { afterEach, expect, test, vi } from 'vitest';
import { Random } from '../../base/random.ts';
import { numberOf } from '../instructions.ts';
import { Exits } from './exits.ts';
import { Lockstep } from './lockstep.ts';
import { lockstepMachine, runSome } from './lockstep-testing.ts';
import type { Place } from './parts.ts';
import { RegionEmit } from './region-emit.ts';
import { minus } from './register-set.ts';

const module = new Lockstep().compile();
const INSTRUCTIONS_EACH = 20_000;

/** The differences that a few random programs come to. */
function differences(seeds: number): string[] {
  const list: string[] = [];
  for (let seed = 1; seed <= seeds; seed++) {
    const { m, lockstep } = lockstepMachine(seed, { module });
    runSome(m, INSTRUCTIONS_EACH, () => 5000);
    list.push(...lockstep.reports);
  }
  return list;
}

afterEach(() => {
  vi.restoreAllMocks();
});

test('random programs come to the same by regions as by the interpreter, at each exit of a region', () => {
  const r = new Random(1);
  const begin = vi.spyOn(RegionEmit.prototype, 'beginBlock');
  for (let seed = 1; seed <= 12; seed++) {
    const { m, lockstep } = lockstepMachine(seed, { module });
    runSome(m, INSTRUCTIONS_EACH, () => (r.oneIn(4) ? 1 + r.below(400) : 5000));
    expect(lockstep.reports, `seed ${seed}`).toEqual([]);
    expect(lockstep.instructions, `seed ${seed}`).toBeGreaterThan(INSTRUCTIONS_EACH / 3);
    expect(lockstep.stores, `seed ${seed}`).toBeGreaterThan(100);
  }
  // Loops that look a page up once are among them.
  expect(begin.mock.calls.filter(([addends]) => addends !== undefined).length).toBeGreaterThan(5);
});

// Regions that are wrong in one thing, each of which must be seen.

const emit = RegionEmit.prototype.emit;

test.each([
  ['sltu', 'slt'],
  ['sd', 'sw'],
  ['amomax.d', 'amomin.d'],
  ['fmv.d.x', 'fmv.w.x'],
])('a region that executes %s as %s differs', (name, other) => {
  const [row, instead] = [numberOf(name), numberOf(other)];
  vi.spyOn(RegionEmit.prototype, 'emit').mockImplementation(function (this: RegionEmit, step, place) {
    emit.call(this, step.row === row ? { ...step, row: instead } : step, place);
  });
  expect(differences(7)).not.toEqual([]);
});

test('a region that miscounts by one where an instruction is left to the interpreter differs', () => {
  vi.spyOn(RegionEmit.prototype, 'emit').mockImplementation(function (this: RegionEmit, step, place: Place) {
    emit.call(this, step, { ...place, undone: Math.max(place.undone - 1, 0) });
  });
  expect(differences(7)).not.toEqual([]);
});

test('a region that does not write back a register which it changed differs', () => {
  const { add, labelOf } = Exits.prototype;
  const less = { x: 1 << 12, f: 0 };
  vi.spyOn(Exits.prototype, 'add').mockImplementation(function (this: Exits, set) {
    add.call(this, minus(set, less));
  });
  vi.spyOn(Exits.prototype, 'labelOf').mockImplementation(function (this: Exits, set) {
    return labelOf.call(this, minus(set, less));
  });
  expect(differences(2).join()).toContain('a2 ');
});
