import { beforeEach, describe, expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { PAGE_SIZE, type Pfn } from '../../base/units.ts';
import { Arena, frameByte } from '../../sync/arena.ts';
import { Sync } from '../../sync/sync.ts';
import { createPageOps, LZ4_SCRATCH_WORDS, type PageOps } from '../../wasm/page-ops.ts';
import { createPageOpsTwin } from '../../wasm/page-ops-twin.ts';
import { PAGE_SAMPLES } from '../../wasm/page-samples.ts';
import type { FramePort, HeapPort } from './swap-backend.ts';
import { Zram, type ZramParts, type ZramStats } from './zram.ts';

const POISON = 0xdb;
const KINDS = Object.keys(PAGE_SAMPLES);

/** Frames of a real arena. Freed frames are overwritten, so that a use after free shows. */
class Frames implements FramePort {
  readonly #arena: Arena;
  readonly #free: Pfn[] = [];
  readonly out = new Set<Pfn>();
  /** Runs between the pool's critical sections. */
  meanwhile = (): void => {};

  constructor(arena: Arena) {
    this.#arena = arena;
    for (let i = arena.frames - 1; i >= 0; i--) this.#free.push(arena.firstFrame + i);
  }

  allocFrame(): Pfn | -1 {
    this.meanwhile();
    const pfn = this.#free.pop();
    if (pfn === undefined) return -1;
    this.out.add(pfn);
    return pfn;
  }

  freeFrame(pfn: Pfn): void {
    if (!this.out.delete(pfn)) throw new Error(`frame ${pfn} freed twice`);
    this.#arena.bytes.fill(POISON, frameByte(pfn), frameByte(pfn) + PAGE_SIZE);
    this.#free.push(pfn);
    this.meanwhile();
  }
}

type World = { arena: Arena; frames: Frames; parts: ZramParts; page: Pfn; bytes: Uint8Array };

function world(makeOps: (arena: Arena) => PageOps, frameCount = 600): World {
  const arena = Arena.create({ frames: frameCount, heapBytes: 1 << 20, shared: false });
  let next = arena.heap;
  const heap: HeapPort = { alloc: words => (next = (next + words + 15) & ~15) - ((words + 15) & ~15) };
  const frames = new Frames(arena);
  const page = frames.allocFrame();
  frames.out.delete(page);
  const sync = new Sync(arena, { lockdep: true });
  const parts = { arena, sync, ops: makeOps(arena), heap, frames };
  return {
    arena,
    frames,
    parts,
    page,
    bytes: arena.bytes.subarray(frameByte(page), frameByte(page) + PAGE_SIZE),
  };
}

const wasm = (arena: Arena): PageOps => createPageOps(arena.memory, arena.shared);
const twin = (arena: Arena): PageOps => createPageOpsTwin(arena.memory);

/** A device and what it ought to hold. */
class Checked {
  readonly held = new Map<number, Uint8Array>();
  readonly w: World;
  zram: Zram;

  constructor(w: World, zram: Zram) {
    this.w = w;
    this.zram = zram;
  }

  write(slot: number, content: Uint8Array): string {
    this.w.bytes.set(content);
    const outcome = this.zram.writePage(slot, this.w.page);
    expect(Buffer.compare(this.w.bytes, content), 'the written frame is as it was').toBe(0);
    this.held.delete(slot);
    if (outcome === 'ok') this.held.set(slot, content.slice());
    return outcome;
  }

  read(slot: number): void {
    this.w.bytes.fill(0x77);
    const outcome = this.zram.readPage(slot, this.w.page);
    const want = this.held.get(slot);
    expect(outcome).toBe(want === undefined ? 'error' : 'ok');
    if (want !== undefined) expect(Buffer.compare(this.w.bytes, want)).toBe(0);
  }

  free(slot: number): void {
    this.zram.freeSlot(slot);
    this.held.delete(slot);
  }

  /** Every figure that follows from the contents, from scratch. */
  check(): ZramStats {
    const stats = this.zram.stats();
    expect(stats.mem_used_total).toBe(this.w.frames.out.size * PAGE_SIZE);
    expect(stats.mem_used_max).toBeGreaterThanOrEqual(stats.mem_used_total);
    expect(stats).toMatchObject(this.#expected());
    this.w.parts.sync.lockdep!.assertNone();
    return stats;
  }

  #expected() {
    const want = {
      orig_data_size: this.held.size * PAGE_SIZE,
      compr_data_size: 0,
      same_pages: 0,
      huge_pages: 0,
    };
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
    const ops = createPageOps(memory, false);
    for (const content of this.held.values()) {
      new Uint8Array(memory.buffer).set(content);
      const length = ops.lz4Compress(0, 2 * PAGE_SIZE, 3260, 4 * PAGE_SIZE);
      if (ops.sameFilled(0)) want.same_pages++;
      else if (length === 0) want.huge_pages++;
      want.compr_data_size += ops.sameFilled(0) ? 0 : length || PAGE_SIZE;
    }
    return want;
  }
}

/** One random operation. */
function step(c: Checked, random: Random, content: Uint8Array): string {
  const slot = random.below(c.zram.slots);
  switch (random.below(8)) {
    case 0:
    case 1:
      c.read(slot);
      return `read ${slot}`;
    case 2:
    case 3:
      c.free(slot);
      return `free ${slot}`;
    case 4:
      return random.oneIn(10) ? `compact ${c.zram.compact(random.below(20))}` : '';
    default: {
      const kind = random.pick(KINDS);
      PAGE_SAMPLES[kind]!(content, random);
      return `write ${slot} ${kind} ${c.write(slot, content)}`;
    }
  }
}

/** Runs a workload and returns everything observable about it. */
function workload(w: World, seed: number, steps: number, checkEvery: number) {
  const c = new Checked(w, Zram.create(w.parts, { slots: 300 }));
  const random = new Random(seed);
  const content = new Uint8Array(PAGE_SIZE);
  const trace: string[] = [];
  for (let i = 0; i < steps; i++) {
    trace.push(step(c, random, content));
    if (i % checkEvery === 0) trace.push(JSON.stringify(c.check()));
  }
  for (let slot = 0; slot < c.zram.slots; slot++) c.read(slot);
  return { c, trace };
}

test('a random workload reads back what a map holds, and the freed pool is empty', () => {
  const { c } = workload(world(wasm), 1, 4000, 200);
  for (let slot = 0; slot < c.zram.slots; slot++) c.free(slot);
  expect(c.check()).toMatchObject({
    orig_data_size: 0,
    compr_data_size: 0,
    mem_used_total: 0,
    same_pages: 0,
    huge_pages: 0,
  });
  expect(c.w.frames.out.size).toBe(0);
});

test('with the twin’s page operations every outcome, figure and frame is the same', () => {
  const [a, b] = [wasm, twin].map(ops => workload(world(ops), 2, 500, 25));
  expect(b!.trace).toEqual(a!.trace);
  const framesOf = (x: typeof a) =>
    Buffer.from(x!.c.w.arena.bytes.subarray(frameByte(x!.c.w.arena.firstFrame)));
  expect(framesOf(a).equals(framesOf(b))).toBe(true);
});

describe('a device of 64 slots', () => {
  let w: World;
  let c: Checked;
  let random: Random;
  const content = new Uint8Array(PAGE_SIZE);
  const fill = (kind: string) => {
    PAGE_SAMPLES[kind]!(content, random);
    return content;
  };

  beforeEach(() => {
    w = world(wasm);
    c = new Checked(w, Zram.create(w.parts, { slots: 64 }));
    random = new Random(3);
  });

  test('stores zero and same-filled pages without memory', () => {
    c.write(0, fill('zero'));
    c.write(1, fill('sameWord'));
    expect(c.check()).toMatchObject({
      orig_data_size: 2 * PAGE_SIZE,
      same_pages: 2,
      mem_used_total: 0,
      mem_used_max: 0,
    });
    c.read(0);
    c.read(1);
  });

  test('stores incompressible pages in a frame each', () => {
    c.write(0, fill('noise'));
    c.write(1, fill('noise'));
    c.free(0);
    expect(c.check()).toMatchObject({
      huge_pages: 1,
      huge_pages_since: 2,
      compr_data_size: PAGE_SIZE,
      mem_used_total: PAGE_SIZE,
    });
    c.read(1);
  });

  test('answers a read of an empty slot with an error and leaves other slots alone', () => {
    c.write(5, fill('text'));
    c.read(4);
    c.free(4);
    c.read(5);
    c.check();
  });

  test('forgets the old content when a slot is written again, whatever both are', () => {
    for (const first of ['noise', 'sameWord', 'text']) {
      for (const second of ['noise', 'sameWord', 'text', 'zero']) {
        c.write(9, fill(first));
        c.write(9, fill(second));
        c.read(9);
        c.check();
      }
    }
  });

  test('refuses a damaged object instead of handing out a wrong page', () => {
    c.write(0, fill('text'));
    for (const pfn of w.frames.out) w.arena.words.fill(-1, pfn * 1024 + 9, pfn * 1024 + 64);
    expect(c.zram.readPage(0, w.page)).toBe('error');
  });
});

test('at the memory limit it is full, stays whole, and takes pages again after a free', () => {
  const w = world(wasm);
  const c = new Checked(w, Zram.create(w.parts, { slots: 400, memLimitBytes: 40 * PAGE_SIZE }));
  const random = new Random(4);
  const content = new Uint8Array(PAGE_SIZE);
  const outcomes = { ok: 0, full: 0 };
  for (let i = 0; i < 1500; i++) {
    PAGE_SAMPLES[random.pick(['text', 'pointers', 'noise', 'halfNoise'])]!(content, random);
    outcomes[c.write(random.below(400), content) as 'ok' | 'full']++;
    if (random.oneIn(3)) c.free(random.below(400));
    if (i % 100 === 0) expect(c.check().mem_used_max).toBeLessThanOrEqual(40 * PAGE_SIZE);
  }
  expect(outcomes.full).toBeGreaterThan(100);
  expect(outcomes.ok).toBeGreaterThan(300);
  for (const slot of c.held.keys()) c.read(slot);
  for (let slot = 0; slot < 400; slot++) c.free(slot);
  expect(c.check().mem_used_total).toBe(0);
});

test('without a frame it says nomem for the page, keeps the others, and leaks nothing', () => {
  const w = world(wasm, 30);
  const c = new Checked(w, Zram.create(w.parts, { slots: 300 }));
  const random = new Random(5);
  const content = new Uint8Array(PAGE_SIZE);
  const outcomes = new Set<string>();
  for (let i = 0; i < 600; i++) {
    PAGE_SAMPLES[random.pick(KINDS)]!(content, random);
    outcomes.add(c.write(random.below(300), content));
    if (i % 60 === 0) c.check();
  }
  expect(outcomes).toEqual(new Set(['ok', 'nomem']));
  for (const slot of c.held.keys()) c.read(slot);
  c.check();
});

test('compaction gives frames back and moves no content', () => {
  const w = world(wasm);
  const c = new Checked(w, Zram.create(w.parts, { slots: 400 }));
  const random = new Random(6);
  const content = new Uint8Array(PAGE_SIZE);
  for (let slot = 0; slot < 400; slot++) {
    PAGE_SAMPLES[random.pick(['text', 'pointers', 'stretches'])]!(content, random);
    c.write(slot, content);
  }
  for (let slot = 0; slot < 400; slot++) if (slot % 4 !== 0) c.free(slot);
  const before = c.check();
  const gained = c.zram.compact(1000);
  const after = c.check();
  expect(gained).toBeGreaterThan(20);
  expect(after.mem_used_total).toBe(before.mem_used_total - gained * PAGE_SIZE);
  expect(after.pages_compacted).toBe(gained);
  for (let slot = 0; slot < 400; slot++) c.read(slot);
});

test('a full pool wastes less than 15 % beyond what the pages compress to', () => {
  const w = world(wasm, 2000);
  const c = new Checked(w, Zram.create(w.parts, { slots: 2500 }));
  const random = new Random(7);
  const content = new Uint8Array(PAGE_SIZE);
  for (let slot = 0; slot < 2500; slot++) {
    // Between 1/16 and 12/16 of the page is noise: lengths all over the classes.
    content.fill(slot);
    const noise = (1 + random.below(12)) * 256 - random.below(256);
    for (let i = 0; i < noise; i++) content[i] = random.u32();
    expect(c.write(slot, content)).toBe('ok');
  }
  const { compr_data_size, mem_used_total } = c.check();
  expect(mem_used_total / compr_data_size).toBeLessThan(1.15);
});

test('another thread may work between any two critical sections, compaction during a read included', () => {
  const w = world(wasm);
  Zram.create(w.parts, { slots: 300 });
  const random = new Random(8);
  // The reader's decompression runs outside the lock: the other thread gets its turn there too.
  let other: Checked;
  let busy = -1;
  let depth = 0;
  const meanwhile = () => {
    if (depth > 0 || other === undefined) return;
    depth++;
    other.zram.compact(3);
    for (let i = 0; i < 4; i++) {
      const slot = random.below(300);
      if (slot === busy) continue;
      if (random.oneIn(2)) other.free(slot);
      else {
        const content = new Uint8Array(PAGE_SIZE);
        PAGE_SAMPLES[random.pick(KINDS)]!(content, random);
        other.write(slot, content);
      }
      if (random.oneIn(2) && slot !== busy) other.read(slot);
    }
    depth--;
  };
  w.frames.meanwhile = meanwhile;
  const ops = wasm(w.arena);
  const slow: PageOps = {
    ...ops,
    lz4Compress: (...a) => {
      const n = ops.lz4Compress(...a);
      meanwhile();
      return n;
    },
    lz4Decompress: (...a) => {
      meanwhile();
      return ops.lz4Decompress(...a);
    },
  };
  const otherPage = w.frames.allocFrame();
  w.frames.out.delete(otherPage);
  const at = frameByte(otherPage);
  const otherWorld = { ...w, page: otherPage, bytes: w.arena.bytes.subarray(at, at + PAGE_SIZE) };
  other = new Checked(otherWorld, Zram.attach(w.parts));
  const mine = new Checked(w, Zram.attach({ ...w.parts, ops: slow }));
  // One truth for both, as there is one device.
  Object.assign(mine, { held: other.held });
  const content = new Uint8Array(PAGE_SIZE);
  for (let i = 0; i < 1500; i++) {
    busy = random.below(300);
    PAGE_SAMPLES[random.pick(KINDS)]!(content, random);
    if (random.oneIn(2)) mine.write(busy, content);
    else mine.read(busy);
    if (random.oneIn(5)) mine.free(busy);
    busy = -1;
    if (i % 100 === 0) mine.check();
  }
  expect(mine.check().pages_compacted).toBeGreaterThan(10);
  for (busy = 0; busy < 300; busy++) mine.read(busy);
});

test('each thread brings its own scratch', () => {
  const w = world(wasm);
  let words = 0;
  const heap = {
    alloc: (n: number) => {
      words += n;
      return w.parts.heap.alloc(n);
    },
  };
  Zram.create(w.parts, { slots: 4 });
  Zram.attach({ ...w.parts, heap });
  expect(words).toBe(LZ4_SCRATCH_WORDS + PAGE_SIZE / 4);
});
