import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MemoryBlock } from '../devices/block-memory.ts';
import { PLIC_SOURCES } from '../devices/plic.ts';
import { ascii, TestClock, TestDriver, TestMemory, TestOutput } from '../devices/testing.ts';
import { Board, type BoardOptions, HOLE } from './board.ts';
import * as map from './memory-map.ts';

const CLAIM = map.PLIC_BASE + 0x20_1004;

function machine(options: Partial<BoardOptions> = {}, memory = new TestMemory(256)) {
  const [console, hvc, agent] = [new TestOutput(), new TestOutput(), new TestOutput()];
  const clock = new TestClock();
  const levels: boolean[] = [];
  const disk = new Uint8Array(64 * 512);
  const board = new Board({
    memory,
    clock,
    rng: into => into.fill(7),
    console,
    hvc,
    agent,
    disks: [new MemoryBlock(disk)],
    balloon: { discard: () => true },
    setExternal: (hart, level) => {
      levels[hart] = level;
    },
    ...options,
  });
  const driver = (slot: number) =>
    new TestDriver({ bus: board, memory, ecam: map.PCI_ECAM_BASE, window: map.PCI_MEM32_BASE, slot });
  return { board, memory, console, hvc, agent, clock, levels, disk, driver };
}

/** Lets every source through to hart 0's supervisor context. */
function openPlic(board: Board): void {
  for (let source = 1; source < PLIC_SOURCES; source++) board.write(map.PLIC_BASE + source * 4, 4, 1);
  for (let word = 0; word < 3; word++) board.write(map.PLIC_BASE + 0x2080 + word * 4, 4, 0xffff_ffff);
}

describe('board', () => {
  test('what nobody claims is a hole', () => {
    const { board } = machine();
    const holes = [0, 0x100, map.RAM_BASE, 0x1000_0100, map.PLIC_BASE + 0x60_0000, 0x8_0000_0000, 2 ** 50];
    for (const gpa of holes) {
      expect([board.read(gpa, 4), board.write(gpa, 4, 1)]).toEqual([HOLE, false]);
      expect([board.read64(gpa, []), board.write64(gpa, 1, 1)]).toEqual([false, false]);
    }
    expect(board.read(map.UART_BASE + 0xfe, 4)).toBe(HOLE);
    expect(board.read64(map.UART_BASE + 0xfc, [])).toBe(false);
  });

  test('an 8-byte access is two of 4, low first', () => {
    const { board } = machine();
    const pair: number[] = [];
    board.write64(map.PLIC_BASE + 8, 3, 0x1_0000_0005);
    expect(board.read64(map.PLIC_BASE + 8, pair)).toBe(true);
    expect(pair).toEqual([3, 5]);
  });

  test('a narrow write gives the device no more than its bytes', () => {
    const { board, console } = machine();
    board.write(map.UART_BASE, 1, 0x12345641);
    board.write(map.UART_BASE, 1, -0xbf);
    expect(console.text).toBe('AA');
  });

  test('the UART interrupts through source 10', () => {
    const { board, levels } = machine();
    openPlic(board);
    board.write(map.UART_BASE + 1, 1, 1);
    expect(board.receive('console', ascii('k'))).toBe(1);
    expect([levels[0], board.read(CLAIM, 4), levels[0]]).toEqual([true, map.UART_IRQ, false]);
    expect(board.read(map.UART_BASE, 1)).toBe(0x6b);
    board.write(CLAIM, 4, map.UART_IRQ);
    expect(levels[0]).toBe(false);
  });

  test('the alarm of the clock is due when nextDeadline says', () => {
    const { board, clock, levels } = machine();
    openPlic(board);
    expect(board.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
    const low = board.read(map.RTC_BASE, 4);
    const alarm = BigInt(board.read(map.RTC_BASE + 4, 4)) * 2n ** 32n + BigInt(low) + 1000n;
    board.write(map.RTC_BASE + 0x0c, 4, Number(alarm >> 32n));
    board.write(map.RTC_BASE + 0x08, 4, Number(alarm & 0xffff_ffffn));
    board.write(map.RTC_BASE + 0x10, 4, 1);
    expect(board.nextDeadline()).toBe(1000);
    clock.ns = 1000;
    board.poll();
    expect([levels[0], board.read(CLAIM, 4)]).toEqual([true, map.RTC_IRQ]);
  });

  test('a kernel finds the functions in their slots', () => {
    const { board } = machine();
    const ids = Array.from(
      { length: 32 },
      (_, slot) => board.read(map.PCI_ECAM_BASE + slot * 0x8000, 4) >>> 16,
    );
    expect(ids.slice(0, 6)).toEqual([0xffff, 0x1043, 0x1043, 0x1044, 0x1042, 0xffff]);
    expect(ids[31]).toBe(0x1045);
    expect(machine({ disks: [] }).board.read(map.PCI_ECAM_BASE + 4 * 0x8000, 4)).toBe(0xffff_ffff);
    expect(board.read(map.PCI_MEM64_BASE + 8, 4)).toBe(0xffff_ffff);
    expect(board.read(map.PCI_IO_BASE + 0x3f8, 1)).toBe(0xff);
  });

  test('each virtio function interrupts by the line of its slot', () => {
    const { board, levels, driver } = machine();
    openPlic(board);
    for (const slot of [1, 2, 3, 4]) {
      const guest = driver(slot).start();
      if (slot <= 2) guest.queues[1]!.call([ascii('hi')], []);
      else guest.queues[0]!.call(slot === 4 ? [new Uint8Array(16)] : [], [513]);
      expect([levels[0], board.read(CLAIM, 4)]).toEqual([true, map.PCI_IRQ_BASE + (slot % 4)]);
      guest.isr();
      board.write(CLAIM, 4, map.PCI_IRQ_BASE + (slot % 4));
      expect([levels[0], board.read(CLAIM, 4)]).toEqual([false, 0]);
    }
  });

  test('channels lead where they say', () => {
    const { board, hvc, agent, driver } = machine();
    const [terminal, channel] = [driver(1).start(), driver(2).start()];
    terminal.queues[1]!.call([ascii('to the terminal')], []);
    channel.queues[1]!.call([ascii('to the agent')], []);
    expect([hvc.text, agent.text]).toEqual(['to the terminal', 'to the agent']);
    board.receive('agent', ascii('question'));
    channel.queues[0]!.add([], [64]);
    channel.queues[0]!.kick();
    expect(channel.queues[0]!.reap()[0]!.length).toBe(8);
    const { hvc: _hvc, agent: _agent, ...without } = { hvc, agent };
    const bare = new Board({ ...without, ...plain() });
    expect(bare.receive('hvc', ascii('x'))).toBe(0);
  });

  test('a state saved in the middle goes on in a fresh board, interrupts and all', () => {
    const first = machine();
    openPlic(first.board);
    const guest = first.driver(4).start();
    const queue = guest.queues[0]!;
    const head = new Uint8Array(16);
    queue.call([head], [512, 1]);
    first.board.write(map.UART_BASE + 1, 1, 1);
    first.board.receive('console', ascii('ab'));
    const claimed = first.board.read(CLAIM, 4);
    queue.add([head], [512, 1]);
    first.memory.away.add(Math.floor(queue.desc / 4096));
    queue.kick();
    expect(first.board.blocked).toBe(true);
    const second = machine({}, first.memory);
    const state = structuredClone(first.board.save());
    second.board.load(state);
    expect(second.board.save()).toEqual(state);
    expect(second.levels).toEqual(first.levels);
    expect(second.board.nextDeadline()).toBe(0);
    expect(second.board.poll()).toBe(true);
    first.memory.away.clear();
    expect([second.board.poll(), queue.reap().length]).toEqual([false, 1]);
    second.board.write(CLAIM, 4, claimed);
    expect([claimed, second.board.read(CLAIM, 4)]).toEqual([map.UART_IRQ, map.UART_IRQ]);
  });

  test('a state that does not fit leaves the board as it was', () => {
    const { board, levels } = machine();
    openPlic(board);
    board.write(map.UART_BASE + 1, 1, 2);
    const before = board.save();
    const devices = before.devices as object[];
    const spoiled = devices.map((device, i) => (i === 1 ? { version: 9 } : device));
    expect(() => board.load({ ...before, devices: spoiled })).toThrow('EINVAL');
    expect(() => board.load({ ...before, devices: devices.slice(1) })).toThrow('EINVAL');
    expect(() => board.load(machine({ disks: [] }).board.save())).toThrow('EINVAL');
    expect([board.save(), levels[0]]).toEqual([before, true]);
  });

  test('a reset takes every device back to power-on', () => {
    const { board, driver } = machine();
    const fresh = machine().board.save();
    openPlic(board);
    board.write(map.UART_BASE + 3, 1, 0x83);
    driver(4).start().queues[0]!.offer(999);
    board.write(map.PCI_MEM32_BASE + 4 * 0x10_0000 + 0x3000, 2, 0);
    board.reset();
    expect(board.save()).toEqual(fresh);
  });

  test('random traffic over the whole map never throws, hangs or leaks a pin', () => {
    const place = fc.constantFrom(
      ...[map.PLIC_BASE, map.PLIC_BASE + 0x20_1000, map.UART_BASE, map.RTC_BASE, map.PCI_IO_BASE],
      ...[1, 2, 3, 4, 31].flatMap(slot => [
        map.PCI_ECAM_BASE + slot * 0x8000,
        map.PCI_MEM32_BASE + slot * 0x10_0000,
        map.PCI_MEM32_BASE + slot * 0x10_0000 + 0x3000,
      ]),
    );
    const access = fc.record({
      place,
      offset: fc.oneof(fc.nat(0x40), fc.nat(0xfff)),
      bytes: fc.constantFrom(1, 2, 4),
      value: fc.oneof(fc.integer(), fc.nat(16)),
      write: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 150 }), fc.boolean(), (accesses, started) => {
        const { board, memory, driver } = machine({}, new TestMemory(32));
        if (started) for (const slot of [1, 2, 3, 4, 31]) driver(slot).start({ queueSize: 8 });
        memory.blockedOneIn = 5;
        for (const { place: base, offset, bytes, value, write } of accesses) {
          if (write) board.write(base + offset, bytes, value);
          else
            expect(board.read(base + offset, bytes)).toSatisfy(
              (v: number) => v >= HOLE && v < 2 ** (8 * bytes),
            );
          board.receive('hvc', ascii('x'));
          board.poll();
          expect(memory.pinned).toBe(0);
        }
        const state = board.save();
        board.load(state);
        expect(board.save()).toEqual(state);
      }),
      { seed: 30, numRuns: 100 },
    );
  });
});

function plain() {
  return {
    memory: new TestMemory(1),
    clock: new TestClock(),
    rng: () => {},
    console: new TestOutput(),
    setExternal: () => {},
  };
}
