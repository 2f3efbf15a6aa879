import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Plic } from './plic.ts';

const CLAIM = 0x20_1004; // context 1: hart 0, supervisor
const THRESHOLD = 0x20_1000;
const ENABLE = 0x2080;

function make(harts = 1) {
  const levels = new Array<boolean>(harts).fill(false);
  const words = new Int32Array(Plic.words(harts));
  const setExternal = (hart: number, level: boolean) => {
    levels[hart] = level;
  };
  return { plic: new Plic(words, { harts, setExternal }), levels, words, setExternal };
}

/** Enables sources for hart 0's supervisor context at a priority each. */
function enable(plic: Plic, priorities: Record<number, number>): void {
  const bits = [0, 0, 0];
  for (const [source, priority] of Object.entries(priorities)) {
    bits[Number(source) >>> 5]! |= 1 << (Number(source) & 31);
    plic.write(Number(source) * 4, 4, priority);
  }
  bits.forEach((word, index) => {
    plic.write(ENABLE + index * 4, 4, word);
  });
}

describe('PLIC', () => {
  test('claims come by priority, then by lowest number', () => {
    const { plic, levels } = make();
    enable(plic, { 3: 1, 40: 7, 41: 7, 95: 2 });
    for (const source of [3, 41, 95, 40]) plic.setLevel(source, true);
    expect(levels).toEqual([true]);
    const order = Array.from({ length: 5 }, () => plic.read(CLAIM, 4));
    expect(order).toEqual([40, 41, 95, 3, 0]);
    expect(levels).toEqual([false]);
  });

  test('a level that stays high interrupts again once completed, and not before', () => {
    const { plic, levels } = make();
    enable(plic, { 10: 1 });
    plic.setLevel(10, true);
    expect(plic.read(CLAIM, 4)).toBe(10);
    plic.setLevel(10, false);
    plic.setLevel(10, true);
    expect([levels[0], plic.read(CLAIM, 4)]).toEqual([false, 0]);
    plic.write(CLAIM, 4, 10);
    expect([levels[0], plic.read(CLAIM, 4)]).toEqual([true, 10]);
    plic.setLevel(10, false);
    plic.write(CLAIM, 4, 10);
    expect([levels[0], plic.read(CLAIM, 4)]).toEqual([false, 0]);
  });

  test('a request stays pending when its level falls unclaimed', () => {
    const { plic } = make();
    enable(plic, { 10: 1 });
    plic.setLevel(10, true);
    plic.setLevel(10, false);
    expect(plic.read(0x1000, 4)).toBe(1 << 10);
    expect(plic.read(CLAIM, 4)).toBe(10);
    plic.write(CLAIM, 4, 10);
    expect(plic.read(0x1000, 4)).toBe(0);
  });

  test('the threshold masks the wire but not the claim; priority 0 masks both', () => {
    const { plic, levels } = make();
    enable(plic, { 5: 3, 6: 0 });
    plic.write(THRESHOLD, 4, 3);
    plic.setLevel(5, true);
    plic.setLevel(6, true);
    expect(levels).toEqual([false]);
    plic.write(THRESHOLD, 4, 2);
    expect(levels).toEqual([true]);
    plic.write(THRESHOLD, 4, 7);
    expect([plic.read(CLAIM, 4), plic.read(CLAIM, 4)]).toEqual([5, 0]);
  });

  test('a completion for a source that is not enabled is ignored', () => {
    const { plic } = make();
    enable(plic, { 10: 1 });
    plic.setLevel(10, true);
    expect(plic.read(CLAIM, 4)).toBe(10);
    plic.write(ENABLE, 4, 0);
    plic.write(CLAIM, 4, 10);
    plic.write(ENABLE, 4, 1 << 10);
    expect(plic.read(CLAIM, 4)).toBe(0);
    plic.write(CLAIM, 4, 10);
    expect(plic.read(CLAIM, 4)).toBe(10);
  });

  test('each hart has its own context, and a claim by one takes it from the other', () => {
    const { plic, levels } = make(2);
    plic.write(10 * 4, 4, 1);
    plic.write(0x2080, 4, 1 << 10);
    plic.write(0x2180, 4, 1 << 10);
    plic.setLevel(10, true);
    expect(levels).toEqual([true, true]);
    expect([plic.read(0x20_3004, 4), plic.read(0x20_1004, 4)]).toEqual([10, 0]);
    expect(levels).toEqual([false, false]);
  });

  test('a machine context never drives a hart', () => {
    const { plic, levels } = make();
    plic.write(10 * 4, 4, 1);
    plic.write(0x2000, 4, 1 << 10);
    plic.setLevel(10, true);
    expect([levels[0], plic.read(0x20_0004, 4)]).toEqual([false, 10]);
  });

  test('two runners over the same words are one controller, under the lock', () => {
    const { words, plic, setExternal, levels } = make();
    let depth = 0;
    const lock = { acquire: () => expect(depth++).toBe(0), release: () => expect(--depth).toBe(0) };
    const other = new Plic(words, { harts: 1, setExternal, lock });
    enable(plic, { 33: 1 });
    other.setLevel(33, true);
    expect([levels[0], plic.read(CLAIM, 4)]).toEqual([true, 33]);
    other.write(CLAIM, 4, 33);
    expect(other.read(CLAIM, 4)).toBe(33);
    expect(depth).toBe(0);
  });

  test('a state saved with a source in service goes on in a fresh controller', () => {
    const { plic } = make();
    enable(plic, { 10: 1, 11: 2 });
    plic.setLevel(10, true);
    plic.setLevel(11, true);
    expect(plic.read(CLAIM, 4)).toBe(11);
    const fresh = make();
    fresh.plic.load(structuredClone(plic.save()));
    expect(fresh.levels).toEqual([true]);
    expect(fresh.plic.save()).toEqual(plic.save());
    for (const each of [plic, fresh.plic]) {
      expect(each.read(CLAIM, 4)).toBe(10);
      each.write(CLAIM, 4, 11);
      expect(each.read(CLAIM, 4)).toBe(11);
    }
    expect(() => fresh.plic.load({ version: 2, words: new Int32Array(Plic.words(1)) })).toThrow('EINVAL');
    expect(() => fresh.plic.load({ version: 1, words: new Int32Array(3) })).toThrow('EINVAL');
  });

  test('a reset forgets the programming, and levels still driven come back when programmed again', () => {
    const { plic, levels } = make();
    enable(plic, { 10: 1 });
    plic.setLevel(10, true);
    plic.read(CLAIM, 4);
    plic.reset();
    expect(levels).toEqual([false]);
    enable(plic, { 10: 1 });
    expect([levels[0], plic.read(CLAIM, 4)]).toEqual([true, 10]);
  });

  test('no order of operations loses an interrupt or makes one up', () => {
    const step = fc.oneof(
      fc.record({ op: fc.constant('level'), source: fc.integer({ min: 1, max: 95 }), on: fc.boolean() }),
      fc.record({ op: fc.constant('priority'), source: fc.integer({ min: 0, max: 95 }), value: fc.nat(7) }),
      fc.record({ op: fc.constant('enable'), word: fc.nat(2), bits: fc.integer() }),
      fc.record({ op: fc.constant('threshold'), value: fc.nat(7) }),
      fc.record({ op: fc.constant('claim') }),
      fc.record({ op: fc.constant('complete') }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), steps => checkAgainstModel(steps as Step[])),
      { seed: 16, numRuns: 300 },
    );
  });
});

type Step = { op: string; source: number; on: boolean; value: number; word: number; bits: number };

/** The specification as sets: what is driven, pending, in service. */
class Model {
  readonly driven = new Set<number>();
  readonly pending = new Set<number>();
  readonly serving: number[] = [];
  readonly priority = new Array<number>(96).fill(0);
  readonly enabled = new Set<number>();
  threshold = 0;

  gateway(source: number): void {
    if (this.driven.has(source) && !this.serving.includes(source)) this.pending.add(source);
  }

  candidates(): number[] {
    const able = [...this.pending].filter(source => this.enabled.has(source) && this.priority[source]! > 0);
    return able.sort((a, b) => this.priority[b]! - this.priority[a]! || a - b);
  }
}

function checkAgainstModel(steps: readonly Step[]): void {
  const { plic, levels } = make();
  const model = new Model();
  for (const step of steps) {
    if (step.op === 'claim') expect(plic.read(CLAIM, 4)).toBe(claim(model));
    else apply(plic, model, step);
    const top = model.candidates()[0];
    expect(levels[0]).toBe(top !== undefined && model.priority[top]! > model.threshold);
  }
}

function claim(model: Model): number {
  const source = model.candidates()[0] ?? 0;
  if (source === 0) return 0;
  model.pending.delete(source);
  model.serving.push(source);
  return source;
}

function apply(plic: Plic, model: Model, step: Step): void {
  if (step.op === 'level') {
    if (step.on) model.driven.add(step.source);
    else model.driven.delete(step.source);
    plic.setLevel(step.source, step.on);
    model.gateway(step.source);
  } else if (step.op === 'priority') {
    if (step.source > 0) model.priority[step.source] = step.value;
    plic.write(step.source * 4, 4, step.value);
  } else if (step.op === 'enable') {
    for (let bit = 0; bit < 32; bit++) {
      const source = step.word * 32 + bit;
      if (source > 0 && ((step.bits >>> bit) & 1) === 1) model.enabled.add(source);
      else model.enabled.delete(source);
    }
    plic.write(ENABLE + step.word * 4, 4, step.bits);
  } else if (step.op === 'threshold') {
    model.threshold = step.value;
    plic.write(THRESHOLD, 4, step.value);
  } else complete(plic, model);
}

function complete(plic: Plic, model: Model): void {
  const source = model.serving[0];
  if (source === undefined) return;
  plic.write(CLAIM, 4, source);
  if (!model.enabled.has(source)) return;
  model.serving.shift();
  model.gateway(source);
}
