import { beforeEach, describe, expect, test } from 'vitest';
import { productionWaiter } from '../../sync/waiter.ts';
import { assemble } from '../assemble.ts';
import { CODE_AT } from '../code-cache.ts';
import type { Cpu } from '../cpu.ts';
import { Op, RECORD_BYTES, SLOT_ENTRIES } from '../decoded.ts';
import { Exit } from '../interface.ts';
import { compileInterpreter } from '../interpreter.ts';
import { FlatMachine, type FlatOptions, RAM_BASE } from '../testing.ts';
import { AT } from '../vcpu.ts';
import { LIMITS } from './layout.ts';
import { POST_WORDS, Post, type PostPtr } from './post.ts';

const module = compileInterpreter(false, true, 2);
const toEnd = (m: FlatMachine, slice = 100_000): void => {
  for (let exit: Exit = Exit.Budget; exit === Exit.Budget; ) exit = m.run(slice);
};

test('what is hot becomes a region, though places that are lukewarm take all the room for counting', () => {
  const m = new FlatMachine({ module });
  const lukewarm = Array.from({ length: 1100 }, (_, i) => `li t0, 8\nl${i}: addi t0, t0, -1\nbnez t0, l${i}`);
  m.program(
    `${lukewarm.join('\n')}\nli s0, 40000\nhot: addi a0, a0, 1\naddi s0, s0, -1\nbnez s0, hot\necall`,
  );
  toEnd(m);
  expect(m.x(10)).toBe(40_000n);
  expect(m.cpu.translated(m.code).regions).toBe(1);
});

test('a hart that saw the mark of a region, but comes too late for its id, executes the instruction all the same', () => {
  // What another hart has done half of in Publisher.review.
  const m = new FlatMachine({ module, batch: 1 });
  m.program('li s0, 60000\nagain: addi a0, a0, 1\naddi s0, s0, -1\nbnez s0, again\necall');
  m.run(10_001);
  expect(m.cpu.translated(m.code).regions).toBe(1);
  const again = 8;
  const slot = m.arena.words[m.code + CODE_AT.base]!;
  const halves = new Uint16Array(m.arena.memory.buffer);
  const [op, id] = [(slot + (again / 2) * RECORD_BYTES) / 2, (slot + SLOT_ENTRIES + again) / 2];
  expect([halves[op], halves[id]! > 0]).toEqual([Op.Region, true]);
  halves[id] = 0;
  m.arena.words[m.vcpu + AT.step] = 1;
  m.cpu.setPc(m.vcpu, RAM_BASE + again);
  toEnd(m);
  expect(m.x(10)).toBe(60_000n);
});

const LONG = 700;
/** A line of LONG instructions, come to as often as `times` says. */
const line = (times: number): string =>
  `li s0, ${times}\nagain: ${'addi a0, a0, 1\n'.repeat(LONG)}addi s0, s0, -1\nbeqz s0, end\nj again\nend: ecall`;

test('a long line that is seldom come to is as hot as the time that it takes, and all of it is translated', () => {
  // Arrivals alone would be hot after 64 thousand.
  const m = new FlatMachine({ module: compileInterpreter(false) });
  m.program(line(3000));
  toEnd(m);
  expect(m.x(10)).toBe(BigInt(3000 * LONG));
  const { regions, region_batches, region_instructions } = m.cpu.translated(m.code);
  expect([regions, region_batches]).toEqual([3, 1]);
  expect(region_instructions).toBeGreaterThan(LONG);
});

describe("a thread that translates for a VM's runners", () => {
  let m: FlatMachine;
  let post: Post;
  let translator: Cpu;
  const start = (options: FlatOptions = {}): void => {
    m = new FlatMachine({
      module,
      post: (arena, alloc) => {
        post = new Post(arena.words, productionWaiter(arena), alloc(POST_WORDS) as PostPtr);
        return post;
      },
      ...options,
    });
    translator = m.secondCpu({ module, limits: options.limits ?? LIMITS });
    post.serve(true);
  };
  const serve = (): void => post.work(code => translator.translator.serve(code));
  const regions = (): number => m.cpu.translated(m.code).regions;
  const runs = (): number => m.cpu.events(m.vcpu).region_exits_lookup;
  beforeEach(() => start());

  const HOT_LOOP = 'li s0, 60000\nagain: addi a0, a0, 1\naddi s0, s0, -1\nbnez s0, again\necall';

  test('makes what is hot, and the runner goes on by it', () => {
    m.program(HOT_LOOP);
    m.run(10_000);
    expect(regions()).toBe(0);
    serve();
    expect(regions()).toBe(1);
    toEnd(m);
    expect(m.x(10)).toBe(60_000n);
    expect(runs()).toBeGreaterThan(0);
    expect(m.cpu.events(m.vcpu).interpreter_calls).toBeLessThan(10);
  });

  test('is asked sooner once the guest has booted', () => {
    for (const [settled, made] of [
      [0, 0],
      [1, 1],
    ]) {
      start();
      m.arena.words[m.code + CODE_AT.settled] = settled!;
      m.program(HOT_LOOP);
      m.run(120);
      serve();
      expect(regions()).toBe(made);
    }
  });

  test('is asked once, however often the place is hot meanwhile', () => {
    m.program(HOT_LOOP);
    for (let i = 0; i < 5; i++) m.run(10_000);
    serve();
    serve();
    expect(regions()).toBe(1);
  });

  test('makes nothing of use where the page was changed meanwhile', () => {
    m.program(HOT_LOOP);
    m.run(10_000);
    const sum = m.x(10);
    serve();
    // From here on the loop adds 2.
    m.poke(RAM_BASE, assemble(HOT_LOOP.replace('a0, a0, 1', 'a0, a0, 2')));
    m.cpu.dropCode(m.code, m.arena.firstFrame);
    const left = m.x(8);
    m.run(1000);
    expect(runs()).toBe(0);
    toEnd(m);
    expect(m.x(10) - sum).toBe(2n * left);
  });

  test('nor where another hart has decoded the changed page in its place', () => {
    start({ slots: 1 });
    m.program(HOT_LOOP);
    m.run(10_000);
    serve();
    const other = m.secondCpu({ module, batch: 0, flushOthers: () => {} });
    const hart = other.createVcpu(m.code);
    other.reset(hart, { hartId: 1, pc: RAM_BASE, a1: 0 });
    const [sum, left] = [m.x(10), m.x(8)];
    m.poke(RAM_BASE, assemble(HOT_LOOP.replace('a0, a0, 1', 'a0, a0, 2')));
    m.cpu.dropCode(m.code, m.arena.firstFrame);
    other.run(hart, 10);
    toEnd(m);
    expect(m.x(10) - sum).toBe(2n * left);
  });

  test('finds no room, and the runner makes some', () => {
    start({ limits: { ...LIMITS, regions: 2 } });
    for (let page = 0; page < 5; page++) {
      m.poke(RAM_BASE + page * 4096, assemble(`li t0, ${page}\n${HOT_LOOP}`));
      m.cpu.setPc(m.vcpu, RAM_BASE + page * 4096);
      m.setX(10, 0n);
      for (let exit: Exit = Exit.Budget; exit === Exit.Budget; serve()) exit = m.run(20_000);
      expect(m.x(10)).toBe(60_000n);
    }
    expect(m.cpu.translated(m.code).region_drops).toBeGreaterThan(0);
    expect(regions()).toBeGreaterThanOrEqual(4);
  });

  test('is waited for where it does not serve yet, and then asked for what was hot before', () => {
    post.serve(false);
    m.program(HOT_LOOP.replace('60000', '900000'));
    for (let i = 0; i < 5; i++) m.run(100_000);
    serve();
    expect(regions()).toBe(0);
    post.serve(true);
    // What is known of its pages first.
    for (let i = 0; i < 2; i++) {
      m.run(10_000);
      serve();
    }
    expect(regions()).toBe(1);
    toEnd(m);
    expect(m.x(10)).toBe(900_000n);
  });

  test('forgets the job of a VM that goes', () => {
    m.program(HOT_LOOP);
    m.run(10_000);
    m.cpu.translator.forget(m.code);
    serve();
    expect(regions()).toBe(0);
  });
});
