import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Errno } from '../base/errno.ts';
import { MemoryBlock } from './block-memory.ts';
import type { BlockBackend } from './interface.ts';
import { ascii, TestDriver, TestLine, TestMemory, TestOutput } from './testing.ts';
import type { VirtioModel } from './virtio.ts';
import { VirtioBlk } from './virtio-blk.ts';
import { VirtioConsole } from './virtio-console.ts';
import { VirtioPci } from './virtio-pci.ts';
import { VirtioRng } from './virtio-rng.ts';

const WINDOW = 0x4000_0000;

/** A device alone on a bus: its configuration space at 0, its BAR where the driver puts it. */
function machine(model: VirtioModel, memory = new TestMemory(256)) {
  const line = new TestLine();
  const device = new VirtioPci(model, { name: model.name, memory, irq: line });
  const bus = {
    read: (gpa: number, bytes: number) =>
      gpa < WINDOW ? device.readConfig(gpa, bytes) : device.readBar(0, gpa - WINDOW, bytes),
    write: (gpa: number, bytes: number, value: number) =>
      gpa < WINDOW ? device.writeConfig(gpa, bytes, value) : device.writeBar(0, gpa - WINDOW, bytes, value),
  };
  const driver = () => new TestDriver({ bus, memory, ecam: 0, window: WINDOW, slot: 0 });
  return { device, memory, line, driver };
}

describe('virtio console', () => {
  test('output is what the guest sends, request by request', () => {
    const output = new TestOutput();
    const { driver } = machine(new VirtioConsole({ output }));
    const [, tx] = driver().start().queues;
    tx!.call([ascii('hello '), ascii('wor')], []);
    expect(tx!.call([ascii('ld\n')], [], { indirect: true }).length).toBe(0);
    expect(output.text).toBe('hello world\n');
  });

  test('input fills the buffers offered, before or after it came', () => {
    const model = new VirtioConsole({ output: new TestOutput() });
    const { driver, line } = machine(model);
    expect(model.receive(ascii('early'))).toBe(5);
    const guest = driver().start();
    const [rx] = guest.queues;
    rx!.add([], [3]);
    rx!.add([], [16]);
    rx!.add([], [16]);
    rx!.kick();
    model.receive(ascii('later'));
    expect(rx!.reap().map(done => String.fromCharCode(...done.data.subarray(0, done.length)))).toEqual([
      'ear',
      'ly',
      'later',
    ]);
    expect([line.level, guest.isr()]).toEqual([true, 1]);
  });

  test('a flood stops at the buffer, and room is announced once there is some', () => {
    let room = 0;
    const model = new VirtioConsole({ output: new TestOutput(), onRoom: () => room++ });
    const { driver } = machine(model);
    const [rx] = driver().start().queues;
    expect(model.receive(new Uint8Array(100_000))).toBe(65536);
    expect([model.receive(Uint8Array.of(1)), room]).toEqual([0, 0]);
    rx!.add([], [100]);
    rx!.kick();
    expect([room, model.receive(new Uint8Array(101))]).toEqual([1, 100]);
  });

  test('what is fed as soon as there is room arrives whole and in order', () => {
    const sent = Uint8Array.from({ length: 200_000 }, (_, i) => (i * 31) >>> 3);
    let at = 0;
    const feed = () => {
      at += model.receive(sent.subarray(at, at + 70_000));
    };
    const model: VirtioConsole = new VirtioConsole({ output: new TestOutput(), onRoom: feed });
    const { driver, memory } = machine(model);
    const [rx] = driver().start().queues;
    feed();
    const got: number[] = [];
    for (let i = 0; got.length < sent.length && i < 100; i++) {
      rx!.add([], [4096]);
      rx!.kick();
      for (const done of rx!.reap()) got.push(...done.data.subarray(0, done.length));
    }
    expect(Buffer.compare(Uint8Array.from(got), sent)).toBe(0);
    expect(memory.pinned).toBe(0);
  });

  test('a terminal that changes size tells the guest', () => {
    const model = new VirtioConsole({ output: new TestOutput() });
    const { driver } = machine(model);
    const guest = driver().start();
    expect([guest.deviceConfig(0, 2), guest.deviceConfig(2, 2)]).toEqual([80, 24]);
    model.resize(132, 50);
    expect([guest.deviceConfig(0, 2), guest.deviceConfig(2, 2), guest.isr()]).toEqual([132, 50, 2]);
  });

  test('input that waits is saved and read on in a fresh device', () => {
    const model = new VirtioConsole({ output: new TestOutput() });
    const first = machine(model);
    const [rx] = first.driver().start().queues;
    model.receive(ascii('half and half'));
    rx!.add([], [5]);
    rx!.kick();
    const second = machine(new VirtioConsole({ output: new TestOutput() }), first.memory);
    second.device.load(structuredClone(first.device.save()));
    second.device.poll();
    rx!.add([], [20]);
    second.device.writeBar(0, 0x3000, 2, 0);
    const texts = rx!.reap().map(done => String.fromCharCode(...done.data.subarray(0, done.length)));
    expect(texts).toEqual(['half ', 'and half']);
  });
});

describe('virtio rng', () => {
  test('fills what is offered, at most a page at a time', () => {
    const { driver } = machine(new VirtioRng(into => into.fill(0x5a)));
    const [queue] = driver().start().queues;
    const small = queue!.call([], [8, 8]);
    expect([small.length, ...small.data]).toEqual([16, ...new Array(16).fill(0x5a)]);
    expect(queue!.call([], [5000]).length).toBe(4096);
    expect(queue!.call([Uint8Array.of(1)], []).length).toBe(0);
  });
});

const IN = 0;
const OUT = 1;
const FLUSH = 4;
const GET_ID = 8;

function header(type: number, sector: number): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(8, sector >>> 0, true);
  view.setUint32(12, Math.floor(sector / 2 ** 32), true);
  return bytes;
}

function disk(backend: BlockBackend) {
  const made = machine(new VirtioBlk(backend, 'disk0'));
  const guest = made.driver().start();
  return { ...made, guest, queue: guest.queues[0]! };
}

describe('virtio blk', () => {
  const pattern = () => Uint8Array.from({ length: 64 * 512 }, (_, i) => (i * 7 + (i >>> 9)) & 0xff);

  test('tells its size and limits', () => {
    const { guest } = disk(new MemoryBlock(new Uint8Array(64 * 512 + 100)));
    expect([guest.deviceConfig(0, 4), guest.deviceConfig(4, 4)]).toEqual([64, 0]);
    expect([guest.deviceConfig(8, 4), guest.deviceConfig(12, 4), guest.deviceConfig(20, 4)]).toEqual([
      32768, 126, 512,
    ]);
    guest.setCommon(0, 4, 0);
    expect(guest.common(4, 4) & 0xffff).toBe(0x0246);
  });

  test('reads and writes whole sectors, however the request is cut', () => {
    const bytes = pattern();
    const { queue } = disk(new MemoryBlock(bytes));
    const read = queue.call([header(IN, 3)], [100, 924, 1]);
    expect([read.length, read.data.at(-1)]).toEqual([1025, 0]);
    expect(read.data.subarray(0, 1024)).toEqual(pattern().subarray(3 * 512, 5 * 512));
    const data = new Uint8Array(1024).fill(0xab);
    const head = header(OUT, 10);
    const parts = [head.subarray(0, 7), head.subarray(7), data.subarray(0, 500), data.subarray(500)];
    expect([...queue.call(parts, [1], { indirect: true }).data]).toEqual([0]);
    const expected = pattern();
    expected.set(data, 10 * 512);
    expect(Buffer.compare(bytes, expected)).toBe(0);
  });

  test('a read-only disk says so and refuses writes', () => {
    const bytes = pattern();
    const { guest, queue } = disk(new MemoryBlock(bytes, { readOnly: true }));
    guest.setCommon(0, 4, 0);
    expect(guest.common(4, 4) & 0x20).toBe(0x20);
    expect([...queue.call([header(OUT, 0), new Uint8Array(512)], [1]).data]).toEqual([1]);
    expect(Buffer.compare(bytes, pattern())).toBe(0);
  });

  test('answers flush and identity, and does not know the rest', () => {
    let flushed = 0;
    const backend = Object.assign(new MemoryBlock(pattern()), { flush: () => flushed++ });
    const { queue } = disk(backend);
    expect([...queue.call([header(FLUSH, 0)], [1]).data, flushed]).toEqual([0, 1]);
    const id = queue.call([header(GET_ID, 0)], [20, 1]).data;
    expect(String.fromCharCode(...id)).toBe(`disk0${'\0'.repeat(16)}`);
    expect([...queue.call([header(11, 0)], [1]).data]).toEqual([2]);
  });

  test('what lies beyond the end or is no whole sector is an I/O error', () => {
    const bytes = pattern();
    const { queue } = disk(new MemoryBlock(bytes));
    for (const [sector, length] of [
      [64, 512],
      [63, 1024],
      [2 ** 60, 512],
      [0, 100],
    ] as const) {
      expect(queue.call([header(IN, sector)], [length, 1]).data.at(-1)).toBe(1);
      expect([...queue.call([header(OUT, sector), new Uint8Array(length)], [1]).data]).toEqual([1]);
    }
    expect(Buffer.compare(bytes, pattern())).toBe(0);
  });

  test('a backend that fails is an I/O error, and one that is wrong is not hidden', () => {
    const fail = (error: Error): BlockBackend => ({
      sectors: 8,
      readOnly: false,
      read: () => {
        throw error;
      },
      write: () => {
        throw error;
      },
      flush: () => {
        throw error;
      },
    });
    const { queue } = disk(fail(new Errno('EIO', 'read')));
    expect(queue.call([header(IN, 0)], [512, 1]).data.at(-1)).toBe(1);
    expect([...queue.call([header(OUT, 0), new Uint8Array(512)], [1]).data]).toEqual([1]);
    expect([...queue.call([header(FLUSH, 0)], [1]).data]).toEqual([1]);
    const wrong = disk(fail(new TypeError('a bug')));
    expect(() => wrong.queue.call([header(FLUSH, 0)], [1])).toThrow('a bug');
  });

  test('a request without header or status needs a reset', () => {
    for (const [send, room] of [
      [[new Uint8Array(15)], [1]],
      [[header(IN, 0)], []],
    ] as const) {
      const { guest, queue } = disk(new MemoryBlock(pattern()));
      queue.add(send, room);
      queue.kick();
      expect([guest.status & 0x40, queue.reap()]).toEqual([0x40, []]);
    }
  });

  test('with pages coming and going at random the disk and the answers are the same', () => {
    fc.assert(
      fc.property(fc.integer(), seed => {
        const calm = workload(seed, undefined);
        expect(workload(seed, 3) === calm).toBe(true);
      }),
      { seed: 52, numRuns: 15 },
    );
  });
});

/** Thirty random reads and writes; what they answered, and the disk. */
function workload(seed: number, blockedOneIn: number | undefined): string {
  const bytes = new Uint8Array(64 * 512);
  const made = machine(new VirtioBlk(new MemoryBlock(bytes), 'disk0'));
  const [queue] = made.driver().start().queues;
  const choose = fc.sample(fc.tuple(fc.nat(70), fc.nat(3), fc.boolean(), fc.nat(255)), { seed, numRuns: 30 });
  made.memory.blockedOneIn = blockedOneIn;
  const answers: string[] = [];
  for (const [sector, count, write, fill] of choose) {
    const data = new Uint8Array(count * 512).fill(fill);
    if (write) queue!.add([header(OUT, sector), data], [1], { indirect: fill % 2 === 0 });
    else queue!.add([header(IN, sector)], [count * 512, 1], { indirect: fill % 2 === 0 });
    queue!.kick();
    for (let tries = 0; made.device.blocked && tries < 1000; tries++) made.device.poll();
    for (const done of queue!.reap()) {
      answers.push(`${done.head} ${done.length} ${Buffer.from(done.data).toString('base64')}`);
    }
    expect(made.memory.pinned).toBe(0);
  }
  expect(answers).toHaveLength(30);
  return [...answers, Buffer.from(bytes).toString('base64')].join('\n');
}
