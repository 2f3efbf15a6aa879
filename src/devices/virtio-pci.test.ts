import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { PciHost } from './pci-host.ts';
import { StateReader } from './state.ts';
import { TestDriver, TestLine, TestMemory } from './testing.ts';
import {
  BROKEN,
  VIRTIO_F_INDIRECT_DESC,
  type VirtioModel,
  VirtioStatus,
  type VirtioTransport,
} from './virtio.ts';
import { VirtioPci } from './virtio-pci.ts';
import type { VirtioRequest } from './virtio-request.ts';

const ECAM = 0x3000_0000;
const WINDOW = 0x4000_0000;
const SLOT = 2;

/** Answers each request with its bytes, each plus one. Gives up on a request that begins with 0xff. */
class Echo implements VirtioModel {
  readonly name = 'echo';
  readonly deviceId = 42;
  readonly classCode = 0xff0000;
  readonly features = 1 << 3;
  readonly queueSizes = [8, 64];
  transport!: VirtioTransport;
  open = true;
  served = 0;
  attach(transport: VirtioTransport): void {
    this.transport = transport;
  }
  config(): Uint8Array {
    return Uint8Array.of(1, 2, 3, 4, 5, 6);
  }
  wants(): boolean {
    return this.open;
  }
  serve(_queue: number, request: VirtioRequest): number {
    const bytes = new Uint8Array(request.readableLength);
    request.read(0, bytes);
    if (bytes[0] === 0xff) return BROKEN;
    request.write(
      0,
      bytes.map(byte => byte + 1),
    );
    this.served++;
    return Math.min(bytes.length, request.writableLength);
  }
  reset(): void {}
  save() {
    return { version: 1, open: this.open, served: this.served };
  }
  prepare(state: { version: number } & Record<string, unknown>): () => void {
    const reader = new StateReader('echo', state, 1);
    const [open, served] = [reader.flag('open'), reader.number('served')];
    return () => {
      this.open = open;
      this.served = served;
    };
  }
}

function machine(memory = new TestMemory(64)) {
  const lines = Array.from({ length: 4 }, () => new TestLine());
  const host = new PciHost({ lines, ecamLength: 0x1000_0000 });
  const model = new Echo();
  const device = new VirtioPci(model, { name: 'echo', memory, irq: host.pin(SLOT) });
  host.attach(SLOT, device);
  const window = host.window(WINDOW, 0x4000_0000);
  const bus = {
    read: (gpa: number, bytes: number) =>
      gpa >= WINDOW ? window.read(gpa - WINDOW, bytes) : host.ecam.read(gpa - ECAM, bytes),
    write: (gpa: number, bytes: number, value: number) =>
      gpa >= WINDOW ? window.write(gpa - WINDOW, bytes, value) : host.ecam.write(gpa - ECAM, bytes, value),
  };
  return {
    memory,
    line: lines[SLOT]!,
    model,
    device,
    bus,
    options: { bus, memory, ecam: ECAM, window: WINDOW, slot: SLOT },
  };
}

let board: ReturnType<typeof machine>;
let driver: TestDriver;
beforeEach(() => {
  board = machine();
  driver = new TestDriver(board.options);
});

const LIVE = VirtioStatus.Acknowledge | VirtioStatus.Driver | VirtioStatus.FeaturesOk | VirtioStatus.DriverOk;

describe('virtio over PCI', () => {
  test('is a modern device with five capabilities', () => {
    expect(board.bus.read(driver.config, 4)).toBe(0x106a1af4);
    const types: number[] = [];
    for (
      let at = board.bus.read(driver.config + 0x34, 1);
      at !== 0;
      at = board.bus.read(driver.config + at + 1, 1)
    ) {
      expect(board.bus.read(driver.config + at, 1)).toBe(9);
      types.push(board.bus.read(driver.config + at + 3, 1));
    }
    expect(types).toEqual([1, 2, 3, 4, 5]);
    expect([driver.common(0x12, 2), driver.common(0x10, 2)]).toEqual([2, 0xffff]);
    expect([driver.deviceConfig(0, 4), driver.deviceConfig(4, 4)]).toEqual([0x04030201, 0x0605]);
  });

  test('features: offered in two words, settled by FEATURES_OK, refused without VERSION_1', () => {
    driver.setCommon(0x00, 4, 0);
    expect(driver.common(0x04, 4)).toBe((VIRTIO_F_INDIRECT_DESC | 8) >>> 0);
    driver.setCommon(0x00, 4, 1);
    expect(driver.common(0x04, 4)).toBe(1);
    driver.setCommon(0x00, 4, 2);
    expect(driver.common(0x04, 4)).toBe(0);
    driver.status = 3;
    driver.status = 3 | VirtioStatus.FeaturesOk;
    expect(driver.status).toBe(3);
    driver.setCommon(0x08, 4, 1);
    driver.setCommon(0x0c, 4, 3);
    driver.status = 3 | VirtioStatus.FeaturesOk;
    expect(driver.status).toBe(3);
    driver.setCommon(0x0c, 4, 1);
    driver.status = 3 | VirtioStatus.FeaturesOk;
    expect(driver.status).toBe(3 | VirtioStatus.FeaturesOk);
    driver.setCommon(0x0c, 4, 0);
    expect(driver.common(0x0c, 4)).toBe(1);
  });

  test('serves requests, interrupts, and the ISR read takes the line down', () => {
    driver.start();
    expect(driver.status).toBe(LIVE);
    const done = driver.queues[1]!.call([Uint8Array.of(1, 2)], [4], { indirect: true });
    expect([done.length, ...done.data]).toEqual([2, 2, 3, 0, 0]);
    expect([board.line.level, board.bus.read(driver.config + 6, 1) & 8]).toEqual([true, 8]);
    expect([driver.isr(), board.line.level, driver.isr()]).toEqual([1, false, 0]);
  });

  test('the interrupt-disable bit keeps the line down but not the status', () => {
    driver.start();
    board.bus.write(driver.config + 4, 2, 0x406);
    driver.queues[0]!.call([Uint8Array.of(1)], [1]);
    expect([board.line.level, board.bus.read(driver.config + 6, 1) & 8]).toEqual([false, 8]);
    board.bus.write(driver.config + 4, 2, 0x006);
    expect(board.line.level).toBe(true);
  });

  test('a queue is fixed once enabled, and a device not live does nothing', () => {
    driver.start();
    driver.setCommon(0x16, 2, 0);
    driver.setCommon(0x20, 4, 0);
    driver.setCommon(0x1c, 2, 0);
    expect([driver.common(0x20, 4), driver.common(0x1c, 2)]).toEqual([driver.queues[0]!.desc, 1]);
    driver.status = 0;
    driver.queues[0]!.add([Uint8Array.of(1)], [1]);
    driver.queues[0]!.kick();
    expect(driver.queues[0]!.reap()).toEqual([]);
    expect([driver.status, driver.common(0x1c, 2), board.memory.pinned]).toEqual([0, 0, 0]);
  });

  test('without bus mastering requests wait, and are served when it comes', () => {
    driver.start();
    board.bus.write(driver.config + 4, 2, 0x2);
    driver.queues[0]!.add([Uint8Array.of(1)], [1]);
    driver.queues[0]!.kick();
    expect(driver.queues[0]!.reap()).toEqual([]);
    board.bus.write(driver.config + 4, 2, 0x6);
    expect(driver.queues[0]!.reap()).toHaveLength(1);
  });

  test('a broken ring asks for a reset, says so, and a reset heals it', () => {
    driver.start();
    driver.queues[0]!.offer(200);
    driver.queues[0]!.kick();
    expect([driver.status, driver.isr()]).toEqual([LIVE | VirtioStatus.NeedsReset, 2]);
    driver.queues[1]!.add([Uint8Array.of(1)], [1]);
    driver.queues[1]!.kick();
    expect(driver.queues[1]!.reap()).toEqual([]);
    driver.start();
    expect(driver.queues[1]!.call([Uint8Array.of(1)], [1]).length).toBe(1);
  });

  test('a request that the model gives up on is a broken ring too', () => {
    driver.start();
    driver.queues[0]!.add([Uint8Array.of(0xff)], [1]);
    driver.queues[0]!.kick();
    expect([driver.status, board.memory.pinned]).toEqual([LIVE | VirtioStatus.NeedsReset, 0]);
  });

  test('a queue badly set up asks for a reset', () => {
    driver.start();
    driver.status = 0;
    driver.negotiate();
    driver.setCommon(0x16, 2, 0);
    driver.setCommon(0x18, 2, 3);
    driver.setCommon(0x1c, 2, 1);
    expect([driver.common(0x1c, 2), driver.status & VirtioStatus.NeedsReset]).toEqual([
      0,
      VirtioStatus.NeedsReset,
    ]);
  });

  test('requests wait in the ring while the model wants none', () => {
    driver.start();
    board.model.open = false;
    driver.queues[0]!.add([Uint8Array.of(1)], [1]);
    driver.queues[0]!.kick();
    expect(driver.queues[0]!.reap()).toEqual([]);
    board.model.open = true;
    board.model.transport.kick(0);
    expect(driver.queues[0]!.reap()).toHaveLength(1);
  });

  test('a ring refilled while it is served can not hold the device: the rest is for poll', () => {
    driver.start();
    const queue = driver.queues[0]!;
    const serve = board.model.serve.bind(board.model);
    queue.descriptor(queue.desc, 0, { gpa: 0x8000_0000, length: 1, flags: 0 });
    board.model.serve = (index, request) => {
      queue.offer(0);
      return serve(index, request);
    };
    queue.offer(0);
    queue.kick();
    expect([board.model.served, board.device.runnable, board.device.blocked]).toEqual([16, true, false]);
    board.device.poll();
    expect(board.model.served).toBe(32);
  });

  test('a page that is away leaves the request for poll, which does it once', () => {
    driver.start();
    const queue = driver.queues[0]!;
    queue.add([new Uint8Array(6000)], [6000]);
    const page = Math.floor((queue.desc + 8192) / 4096);
    board.memory.away.add(page);
    queue.kick();
    board.device.poll();
    expect([board.device.blocked, queue.reap(), board.model.served]).toEqual([true, [], 0]);
    board.memory.away.clear();
    board.device.poll();
    expect([board.device.blocked, queue.reap().length, board.model.served]).toEqual([false, 1, 1]);
  });

  test('the access capability reaches the registers without the BAR', () => {
    const { bus } = board;
    let at = bus.read(driver.config + 0x34, 1);
    while (bus.read(driver.config + at + 3, 1) !== 5) at = bus.read(driver.config + at + 1, 1);
    const capability = driver.config + at;
    const aim = (offset: number, length: number) => {
      bus.write(capability + 4, 1, 0);
      bus.write(capability + 8, 4, offset);
      bus.write(capability + 12, 4, length);
    };
    aim(0x14, 1);
    bus.write(capability + 16, 1, 3);
    expect(driver.status).toBe(3);
    aim(0x12, 2);
    expect(bus.read(capability + 16, 2)).toBe(2);
    aim(0xffff_fffc, 4);
    expect(bus.read(capability + 16, 4)).toBeGreaterThanOrEqual(0);
    aim(0x12, 3);
    bus.write(capability + 16, 4, 0);
  });

  test('a change of configuration counts the generation and interrupts', () => {
    driver.start();
    board.model.transport.configChanged();
    expect([driver.common(0x15, 1), driver.isr()]).toEqual([1, 2]);
  });

  test('a state saved with a request blocked goes on in a fresh device', () => {
    driver.start();
    const queue = driver.queues[0]!;
    queue.call([Uint8Array.of(1)], [1]);
    queue.add([Uint8Array.of(5, 6)], [2]);
    board.memory.away.add(Math.floor(queue.used / 4096));
    queue.kick();
    const state = structuredClone(board.device.save());
    const other = machine(board.memory);
    board.memory.away.clear();
    other.device.load(state);
    expect(other.device.save()).toEqual(state);
    expect([other.line.level, other.device.runnable]).toEqual([true, true]);
    other.device.poll();
    expect(queue.reap().map(done => [...done.data])).toEqual([[6, 7]]);
    expect(other.model.served).toBe(2);
  });

  test('a state of another shape changes nothing', () => {
    driver.start();
    const before = board.device.save();
    const bad = [
      { ...before, version: 2 },
      { ...before, queues: [] },
      { ...before, config: new Uint8Array(256) },
      { ...before, status: -1 },
      { ...before, model: { version: 1, open: true, served: 'many' } },
    ];
    for (const state of bad) expect(() => board.device.load(state)).toThrow('EINVAL');
    expect(board.device.save()).toEqual(before);
  });

  test('random register traffic never throws, hangs or leaks a pin', () => {
    const access = fc.record({
      place: fc.constantFrom(0, 0x1000, 0x2000, 0x3000, -1),
      offset: fc.oneof(fc.nat(0x38), fc.nat(0xfff)),
      bytes: fc.constantFrom(1, 2, 4),
      value: fc.oneof(fc.nat(0xffff_ffff), fc.nat(16), fc.constantFrom(0x8000_0000, 0x8000_1000, 15)),
      write: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 120 }), fc.boolean(), (accesses, started) => {
        const { bus, device, options, memory } = machine();
        const guest = new TestDriver(options);
        if (started) guest.start({ queueSize: 4 });
        for (const { place, offset, bytes, value, write } of accesses) {
          const gpa = place < 0 ? guest.config + offset : WINDOW + SLOT * 0x10_0000 + place + offset;
          if (write) bus.write(gpa, bytes, value);
          else expect(bus.read(gpa, bytes)).toSatisfy((v: number) => v >= 0 && v < 2 ** (8 * bytes));
          device.poll();
          expect(memory.pinned).toBe(0);
        }
        device.load(structuredClone(device.save()));
      }),
      { seed: 1, numRuns: 200 },
    );
  });
});
