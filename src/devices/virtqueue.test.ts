import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { TEST_RAM, TestMemory, TestQueue } from './testing.ts';
import type { VirtioRequest } from './virtio-request.ts';
import { REQUEST_BYTES_MAX, Virtqueue } from './virtqueue.ts';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const SIZE = 8;

let memory: TestMemory;
let driver: TestQueue;
let queue: Virtqueue;
beforeEach(() => {
  memory = new TestMemory(64);
  driver = new TestQueue(memory, SIZE, () => {});
  queue = connect(memory, driver);
});

function connect(
  guest: TestMemory,
  ring: { desc: number; avail: number; used: number; size: number },
): Virtqueue {
  const device = new Virtqueue(guest, 256);
  Object.assign(device, { size: ring.size, descLo: ring.desc, driverLo: ring.avail, deviceLo: ring.used });
  device.enabled = device.wellFormed;
  return device;
}

/** Pops once and says what came. */
function popOnce(indirect = true): string {
  expect(queue.begin()).toBe('ready');
  const request = queue.pop({ indirect });
  const outcome =
    typeof request === 'string' ? request : `${request.readableLength} ${request.writableLength}`;
  if (typeof request !== 'string') queue.push(request, 0);
  queue.end();
  expect(memory.pinned).toBe(0);
  return outcome;
}

describe('virtqueue', () => {
  test('a request is its chain of bytes to read and room to write', () => {
    driver.add([Uint8Array.of(1, 2, 3), Uint8Array.of(4)], [5, 6]);
    queue.begin();
    const request = queue.pop({ indirect: true }) as VirtioRequest;
    const sent = new Uint8Array(4);
    request.read(0, sent);
    expect([...sent, request.writableLength]).toEqual([1, 2, 3, 4, 11]);
    request.write(4, Uint8Array.of(7, 8, 9));
    queue.push(request, 7);
    expect(queue.end()).toBe(true);
    expect(driver.reap().map(done => [done.length, ...done.data])).toEqual([
      [7, 0, 0, 0, 0, 7, 8, 9, 0, 0, 0, 0],
    ]);
  });

  test('buffers that cross pages keep their order', () => {
    const bytes = Uint8Array.from({ length: 9000 }, (_, i) => i * 7);
    driver.add([bytes], [9000]);
    queue.begin();
    const request = queue.pop({ indirect: true }) as VirtioRequest;
    const copy = new Uint8Array(9000);
    request.read(0, copy);
    request.write(0, copy);
    queue.push(request, 9000);
    queue.end();
    expect(driver.reap()[0]!.data).toEqual(bytes);
  });

  test('an indirect table is a chain of its own, if negotiated', () => {
    driver.add([Uint8Array.of(1), Uint8Array.of(2)], [3], { indirect: true });
    expect(popOnce(false)).toBe('broken');
    expect(popOnce()).toBe('2 3');
    expect(popOnce()).toBe('empty');
  });

  test('indices wrap at 16 bits and keep to the ring', () => {
    for (let round = 0; round < 70_000; round += SIZE) {
      for (let i = 0; i < SIZE; i++) driver.offer(i);
      queue.begin();
      for (let i = 0; i < SIZE; i++) queue.push(queue.pop({ indirect: true }) as VirtioRequest, round);
      queue.end();
    }
    expect(memory.u16(driver.used + 2)).toBe(70_000 & 0xffff);
  });

  test('no interrupt is wanted when nothing was done or the driver said so', () => {
    driver.add([Uint8Array.of(1)], []);
    memory.setU16(driver.avail, 1);
    queue.begin();
    queue.push(queue.pop({ indirect: true }) as VirtioRequest, 0);
    expect(queue.end()).toBe(false);
    memory.setU16(driver.avail, 0);
    queue.begin();
    expect(queue.end()).toBe(false);
  });

  const hostile: Record<string, () => void> = {
    'a head past the table': () => driver.offer(SIZE),
    'more available than the ring holds': () => memory.setU16(driver.avail + 2, SIZE + 1),
    'a next past the table': () => {
      driver.descriptor(driver.desc, 0, { gpa: TEST_RAM, length: 1, flags: NEXT, next: SIZE });
      driver.offer(0);
    },
    'a loop of two': () => {
      driver.descriptor(driver.desc, 0, { gpa: TEST_RAM, length: 1, flags: NEXT, next: 1 });
      driver.descriptor(driver.desc, 1, { gpa: TEST_RAM, length: 1, flags: NEXT, next: 0 });
      driver.offer(0);
    },
    'a wild address': () => {
      driver.descriptor(driver.desc, 0, { gpa: 0x1000, length: 1, flags: 0 });
      driver.offer(0);
    },
    'an address beyond 2^52': () => {
      driver.descriptor(driver.desc, 0, { gpa: 2 ** 53, length: 1, flags: 0 });
      driver.offer(0);
    },
    'a buffer that runs off memory': () => {
      driver.descriptor(driver.desc, 0, { gpa: TEST_RAM, length: 0xffff_ffff, flags: WRITE });
      driver.offer(0);
    },
    'something to read after room to write': () => {
      driver.descriptor(driver.desc, 0, { gpa: TEST_RAM, length: 1, flags: WRITE | NEXT, next: 1 });
      driver.descriptor(driver.desc, 1, { gpa: TEST_RAM, length: 1, flags: 0 });
      driver.offer(0);
    },
    'an indirect table of no entries': () => indirect({ length: 0 }),
    'an indirect table of half an entry': () => indirect({ length: 24 }),
    'an indirect table too long': () => indirect({ length: 16 * 1025 }),
    'an indirect table nowhere': () => indirect({ length: 16, gpa: 0x10 }),
    'an indirect table in an indirect table': () => {
      driver.descriptor(TEST_RAM + 0x8000, 0, { gpa: TEST_RAM, length: 16, flags: INDIRECT });
      indirect({ length: 16 });
    },
    'an indirect descriptor that goes on': () => indirect({ length: 16, flags: INDIRECT | NEXT }),
    'a loop in an indirect table': () => {
      driver.descriptor(TEST_RAM + 0x8000, 0, { gpa: TEST_RAM, length: 1, flags: NEXT, next: 0 });
      indirect({ length: 16 });
    },
  };

  function indirect(fields: { length: number; gpa?: number; flags?: number }): void {
    driver.descriptor(driver.desc, 0, { gpa: TEST_RAM + 0x8000, flags: INDIRECT, ...fields });
    driver.offer(0);
  }

  for (const [name, arrange] of Object.entries(hostile)) {
    test(`${name} is broken, and nothing stays pinned`, () => {
      arrange();
      expect(popOnce()).toBe('broken');
      expect(memory.u16(driver.used + 2)).toBe(0);
    });
  }

  test('a chain may name as many bytes as we pin, and not one more', () => {
    memory = new TestMemory(1100);
    driver = new TestQueue(memory, SIZE, () => {});
    queue = connect(memory, driver);
    const half = REQUEST_BYTES_MAX / 2;
    driver.descriptor(driver.desc, 0, { gpa: TEST_RAM, length: half, flags: NEXT, next: 1 });
    driver.descriptor(driver.desc, 1, { gpa: TEST_RAM + 4096, length: half, flags: 0 });
    driver.offer(0);
    expect(popOnce()).toBe(`${REQUEST_BYTES_MAX} 0`);
    driver.descriptor(driver.desc, 1, { gpa: TEST_RAM + 4096, length: half + 1, flags: 0 });
    driver.offer(0);
    expect(popOnce()).toBe('broken');
  });

  test('a descriptor of no length names no memory', () => {
    driver.descriptor(driver.desc, 0, { gpa: 0x10, length: 0, flags: NEXT, next: 1 });
    driver.descriptor(driver.desc, 1, { gpa: TEST_RAM, length: 4, flags: WRITE });
    driver.offer(0);
    expect(popOnce()).toBe('0 4');
  });

  test('rings that are nowhere are broken, and badly made ones are not well formed', () => {
    expect(connect(memory, { desc: 0, avail: TEST_RAM, used: TEST_RAM, size: 8 }).begin()).toBe('broken');
    expect(connect(memory, { desc: TEST_RAM, avail: TEST_RAM, used: 0, size: 8 }).begin()).toBe('broken');
    const bad = [{ size: 0 }, { size: 3 }, { size: 512 }, { desc: 8 }, { avail: 1 }, { used: 2 }];
    for (const fields of bad) {
      const ring = { desc: TEST_RAM, avail: TEST_RAM, used: TEST_RAM, size: 8, ...fields };
      expect(connect(memory, ring).wellFormed).toBe(false);
    }
    expect(memory.pinned).toBe(0);
  });

  test('a page that is away blocks without a trace, wherever it is', () => {
    driver.add([new Uint8Array(5000)], [5000], { indirect: true });
    const touched = new Set<number>();
    for (let gpa = TEST_RAM; gpa < TEST_RAM + memory.length; gpa += 4096) touched.add(gpa / 4096);
    const before = memory.contents();
    const state = queue.save();
    let blocked = 0;
    for (const page of touched) {
      memory.away.add(page);
      const begun = queue.begin();
      const popped = begun === 'ready' ? queue.pop({ indirect: true }) : begun;
      if (popped === 'blocked') blocked++;
      else queue.abandon(popped as VirtioRequest);
      if (begun === 'ready') queue.end();
      memory.away.delete(page);
      expect([memory.pinned, queue.save()]).toEqual([0, state]);
    }
    expect(Buffer.compare(memory.contents(), before)).toBe(0);
    expect(blocked).toBe(3);
    expect(popOnce()).toBe('5000 5000');
  });

  test('random rings and descriptors end in an outcome, pins balanced, nothing written but used and room', () => {
    const garbage = fc.record({
      seed: fc.integer(),
      density: fc.integer({ min: 1, max: 6 }),
      blocked: fc.boolean(),
    });
    fc.assert(
      fc.property(garbage, ({ seed, density, blocked }) => runGarbage(seed, density, blocked)),
      { seed: 1040, numRuns: 400 },
    );
  });
});

/** Fills the rings with bytes that are sometimes plausible, and pops until something stops it. */
function runGarbage(seed: number, density: number, blocked: boolean): void {
  const guest = new TestMemory(16);
  const ring = new TestQueue(guest, SIZE, () => {});
  const device = connect(guest, ring);
  const { random } = guest;
  for (let i = 0; i < (seed & 7); i++) random.u32();
  for (let i = 0; i < SIZE; i++) {
    const gpa = random.oneIn(density + 2)
      ? random.u32() * 2 ** random.below(24)
      : TEST_RAM + random.below(0x10000);
    const length = random.oneIn(density + 1) ? random.u32() : random.below(300) * (random.oneIn(3) ? 16 : 1);
    const next = random.below(SIZE + (random.oneIn(density) ? 1 : 0));
    ring.descriptor(ring.desc, i, { gpa, length, flags: random.below(random.oneIn(3) ? 8 : 4), next });
    ring.offer(random.below(SIZE + (random.oneIn(density * 4) ? 3 : 0)));
  }
  if (blocked) guest.blockedOneIn = 4;
  for (let pops = 0; pops < 3 * SIZE; pops++) {
    if (device.begin() !== 'ready') continue;
    const request = device.pop({ indirect: true });
    if (typeof request === 'string') device.end();
    else {
      request.write(0, new Uint8Array(Math.min(request.writableLength, 64)));
      device.push(request, 0);
      device.end();
    }
    expect(guest.pinned).toBe(0);
    if (request === 'broken' || request === 'empty') break;
  }
  expect(guest.pinned).toBe(0);
}
