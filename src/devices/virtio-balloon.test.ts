import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TEST_RAM, TestDriver, TestLine, TestMemory } from './testing.ts';
import { VirtioBalloon } from './virtio-balloon.ts';
import { VirtioPci } from './virtio-pci.ts';

const WINDOW = 0x4000_0000;
const [INFLATE, DEFLATE] = [0, 1];
/** Where a driver of the standard finds the reporting queue, and where one that counts does. */
const REPORTING = [4, 2];

/** A balloon on a bus of its own; `ranges` is what the host was told to take. */
function machine(memory = new TestMemory(64)) {
  const ranges: [number, number][] = [];
  const host = { ready: true, actual: 0 };
  const model = new VirtioBalloon({
    discard(gpa, length) {
      if (host.ready) ranges.push([gpa, length]);
      return host.ready;
    },
    onActual: bytes => {
      host.actual = bytes;
    },
  });
  const line = new TestLine();
  const device = new VirtioPci(model, { name: 'balloon', memory, irq: line });
  const bus = {
    read: (gpa: number, bytes: number) =>
      gpa < WINDOW ? device.readConfig(gpa, bytes) : device.readBar(0, gpa - WINDOW, bytes),
    write: (gpa: number, bytes: number, value: number) =>
      gpa < WINDOW ? device.writeConfig(gpa, bytes, value) : device.writeBar(0, gpa - WINDOW, bytes, value),
  };
  const driver = () => new TestDriver({ bus, memory, ecam: 0, window: WINDOW, slot: 0 });
  const configWrite = (offset: number, value: number) => device.writeBar(0, 0x2000 + offset, 4, value);
  return { model, device, memory, line, ranges, host, driver, configWrite };
}

const pfns = (...numbers: number[]): Uint8Array => new Uint8Array(Uint32Array.from(numbers).buffer);

/** Offers buffers that lie anywhere to a queue, as a driver does what it reports, and kicks. */
function report(
  guest: TestDriver,
  queue: number,
  buffers: readonly { gpa: number; length: number; write?: boolean }[],
): void {
  const q = guest.queues[queue]!;
  buffers.forEach(({ gpa, length, write = true }, i) => {
    const last = i === buffers.length - 1;
    q.descriptor(q.desc, i, { gpa, length, flags: (write ? 2 : 0) | (last ? 0 : 1), next: last ? 0 : i + 1 });
  });
  q.offer(0);
  q.kick();
}

describe('virtio balloon', () => {
  test('O-6 pages of the inflate queue are given up, neighbours together', () => {
    const { driver, ranges } = machine();
    const guest = driver().start();
    guest.queues[INFLATE]!.call([pfns(9, 7, 8, 3, 0xffff_ffff, 3)], []);
    expect(ranges).toEqual([
      [3 * 4096, 4096],
      [7 * 4096, 3 * 4096],
      [0xffff_ffff * 4096, 4096],
    ]);
    guest.queues[DEFLATE]!.call([pfns(9, 7)], []);
    expect(ranges).toHaveLength(3);
  });

  test.each(REPORTING)('O-6 what queue %i reports is given up, and never brought in first', queue => {
    const { driver, ranges, memory } = machine();
    const guest = driver().start();
    const there = Math.ceil(TEST_RAM / 4096);
    for (let page = there + 32; page < there + 64; page++) memory.away.add(page);
    report(guest, queue, [
      { gpa: (there + 32) * 4096, length: 8 * 4096 },
      { gpa: 0x9_0000_0000, length: 2 ** 31 },
      { gpa: 100, length: 8192 + 4096 },
      { gpa: 4095, length: 2 },
    ]);
    expect(ranges).toEqual([
      [(there + 32) * 4096, 8 * 4096],
      [0x9_0000_0000, 2 ** 31],
      [4096, 8192],
    ]);
    expect([memory.pinned, guest.status & 0x40]).toEqual([0, 0]);
  });

  test('a guest that fills freed pages with its own poison keeps what it reports', () => {
    const { driver, ranges, configWrite } = machine();
    const guest = driver().start();
    configWrite(12, 0xaaaa_aaaa);
    report(guest, 4, [{ gpa: 8 * 4096, length: 4096 }]);
    expect(ranges).toEqual([]);
    configWrite(12, 0);
    report(guest, 4, [{ gpa: 8 * 4096, length: 4096 }]);
    expect(ranges).toEqual([[8 * 4096, 4096]]);
  });

  test('the guest is told of another target, and tells how far it has come', () => {
    const { driver, model, host, configWrite } = machine();
    const guest = driver().start();
    model.setTarget(64 * 2 ** 20);
    expect([guest.deviceConfig(0, 4), guest.isr()]).toEqual([16384, 2]);
    model.setTarget(64 * 2 ** 20);
    expect(guest.isr()).toBe(0);
    configWrite(4, 1000);
    expect([guest.deviceConfig(4, 4), model.actualBytes, host.actual]).toEqual([1000, 4096000, 4096000]);
    // num_pages is not the driver's, and words are written whole.
    configWrite(0, 5);
    guest.bus.write(WINDOW + 0x2004, 2, 7);
    expect([guest.deviceConfig(0, 4), guest.deviceConfig(4, 4)]).toEqual([16384, 1000]);
    guest.status = 0;
    expect([model.actualBytes, model.targetBytes, host.actual]).toEqual([0, 64 * 2 ** 20, 0]);
  });

  test('a host that can not do it now is asked again, and the guest waits for its answer', () => {
    const { driver, device, host, ranges } = machine();
    const guest = driver().start();
    host.ready = false;
    guest.queues[INFLATE]!.add([pfns(1, 2)], []);
    guest.queues[INFLATE]!.kick();
    report(guest, 4, [{ gpa: 8 * 4096, length: 4096 }]);
    device.poll();
    expect([device.blocked, guest.queues[INFLATE]!.reap(), ranges]).toEqual([true, [], []]);
    host.ready = true;
    device.poll();
    expect(device.blocked).toBe(false);
    expect(guest.queues[INFLATE]!.reap()).toHaveLength(1);
    expect(ranges).toEqual([
      [4096, 8192],
      [8 * 4096, 4096],
    ]);
  });

  test('half a page number, too many, or a report that can not be written to needs a reset', () => {
    const bad: ((guest: TestDriver) => void)[] = [
      guest => {
        guest.queues[INFLATE]!.add([new Uint8Array(6)], []);
        guest.queues[INFLATE]!.kick();
      },
      guest => {
        guest.queues[INFLATE]!.add([new Uint8Array(4 * 4097)], []);
        guest.queues[INFLATE]!.kick();
      },
      guest => report(guest, 4, [{ gpa: 4096, length: 4096, write: false }]),
    ];
    for (const attempt of bad) {
      const { driver, ranges, memory } = machine();
      const guest = driver().start();
      attempt(guest);
      expect([guest.status & 0x40, ranges, memory.pinned]).toEqual([0x40, [], 0]);
    }
  });

  test('what it knows goes on in a fresh device, and another shape changes nothing', () => {
    const first = machine();
    const guest = first.driver().start();
    first.model.setTarget(4096 * 77);
    first.configWrite(4, 33);
    first.configWrite(12, 0x55);
    const second = machine(first.memory);
    const state = structuredClone(first.device.save());
    second.device.load(state);
    expect(second.device.save()).toEqual(state);
    expect([second.model.targetBytes, second.host.actual]).toEqual([4096 * 77, 4096 * 33]);
    expect([guest.deviceConfig(0, 4), guest.deviceConfig(12, 4)]).toEqual([77, 0x55]);
    for (const model of [{ version: 2 }, { version: 1, numPages: -1, actual: 0, poison: 0 }])
      expect(() => second.device.load({ ...state, model })).toThrow('EINVAL');
    expect(second.device.save()).toEqual(state);
  });

  test('random requests end in an answer or a reset, only whole pages are named, and pins are balanced', () => {
    const request = fc.record({
      queue: fc.nat(5),
      gpa: fc.oneof(fc.nat(0xffff_ffff), fc.integer({ min: TEST_RAM, max: TEST_RAM + 0x10000 })),
      length: fc.oneof(fc.nat(0x4000), fc.nat(0xffff_ffff)),
      write: fc.boolean(),
      poison: fc.constantFrom(0, 0, 1),
      ready: fc.boolean(),
      bytes: fc.uint8Array({ maxLength: 64 }),
    });
    fc.assert(
      fc.property(fc.array(request, { maxLength: 40 }), requests => {
        const { driver, device, memory, host, ranges, configWrite } = machine();
        const guest = driver().start({ queueSize: 8 });
        for (const { queue, gpa, length, write, poison, ready, bytes } of requests) {
          host.ready = ready;
          configWrite(12, poison);
          const at = memory.allocate(bytes.length + 1);
          memory.put(at, bytes);
          report(
            guest,
            queue % 5,
            [
              { gpa: at, length: bytes.length, write: false },
              { gpa, length, write },
            ].slice(queue > 1 ? 1 : 0, queue > 1 ? 2 : 1 + (queue & 1)),
          );
          device.poll();
          expect(memory.pinned).toBe(0);
        }
        for (const [gpa, length] of ranges)
          expect([gpa % 4096, length % 4096, length > 0]).toEqual([0, 0, true]);
        device.load(structuredClone(device.save()));
      }),
      { seed: 55, numRuns: 200 },
    );
  });
});
