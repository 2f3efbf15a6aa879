import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { Ns16550 } from './ns16550.ts';
import { ascii, TestLine, TestOutput } from './testing.ts';

const [RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 3, 4, 5, 6, 7] as const;

let line: TestLine;
let output: TestOutput;
let room: number;
let uart: Ns16550;
beforeEach(() => {
  line = new TestLine();
  output = new TestOutput();
  room = 0;
  uart = new Ns16550({ irq: line, output, onRoom: () => room++ });
});

const read = (register: number) => uart.read(register, 1);
const write = (register: number, value: number) => uart.write(register, 1, value);

/** Reads as an interrupt handler does: as long as the line status says there is data. */
function drain(): string {
  let text = '';
  while ((read(LSR) & 1) !== 0) text += String.fromCharCode(read(RBR));
  return text;
}

describe('16550A', () => {
  test('what is written leaves at once and the transmitter is empty again', () => {
    for (const byte of ascii('hello\n')) {
      expect(read(LSR) & 0x60).toBe(0x60);
      write(RBR, byte);
    }
    expect(output.text).toBe('hello\n');
  });

  test('enabling THRI interrupts each time, as the kernel tests for at start', () => {
    for (let round = 0; round < 2; round++) {
      write(IER, 0x02);
      expect(line.level).toBe(true);
      expect(read(IIR) & 0x0f).toBe(0x02);
      expect(line.level).toBe(false);
      expect(read(IIR) & 0x0f).toBe(0x01);
      write(IER, 0);
    }
  });

  test('a byte written after the interrupt was read out interrupts again', () => {
    write(IER, 0x02);
    read(IIR);
    write(RBR, 0x41);
    expect([line.level, read(IIR) & 0x0f, line.level]).toEqual([true, 0x02, false]);
  });

  test('input interrupts until it is read, by level or by time-out', () => {
    write(IIR, 0xc1);
    write(IER, 0x01);
    expect(uart.receive(ascii('0123456789abcd'))).toBe(14);
    expect([line.level, read(IIR)]).toEqual([true, 0xc4]);
    read(RBR);
    expect([line.level, read(IIR)]).toEqual([true, 0xcc]);
    expect(drain()).toBe('123456789abcd');
    expect([line.level, read(IIR)]).toEqual([false, 0xc1]);
  });

  test('received data ranks before an empty transmitter', () => {
    write(IER, 0x03);
    uart.receive(ascii('x'));
    expect(read(IIR) & 0x0f).toBe(0x04);
    read(RBR);
    expect(read(IIR) & 0x0f).toBe(0x02);
  });

  test('the divisor hides behind DLAB', () => {
    write(LCR, 0x83);
    write(RBR, 0x0d);
    write(IER, 0x01);
    expect([read(RBR), read(IER)]).toEqual([0x0d, 0x01]);
    write(LCR, 0x03);
    expect([read(IER), line.level, output.text]).toEqual([0, false, '']);
    write(SCR, 0x5a);
    expect(read(SCR)).toBe(0x5a);
  });

  test('clearing the receive FIFO drops what the chip would hold and no more', () => {
    write(IIR, 0x01);
    uart.receive(ascii('0123456789abcdefghij'));
    write(IIR, 0x03);
    expect(drain()).toBe('ghij');
  });

  test('a full buffer takes what fits, and says when there is room', () => {
    const flood = new Uint8Array(5000).fill(0x61);
    expect(uart.receive(flood)).toBe(4096);
    expect([uart.receive(flood), room]).toEqual([0, 0]);
    read(RBR);
    expect([room, uart.receive(flood)]).toEqual([1, 1]);
  });

  test('loopback returns bytes and modem outputs, and nothing leaves', () => {
    write(MCR, 0x1f);
    write(RBR, 0x55);
    expect([read(LSR) & 1, read(RBR), output.text]).toEqual([1, 0x55, '']);
    expect(read(MSR) & 0xf0).toBe(0xf0);
    write(MCR, 0x10);
    // All four lines fell; of the ring indicator only the trailing edge counts, and this is one.
    expect(read(MSR)).toBe(0x0f);
    expect(read(MSR)).toBe(0x00);
    write(MCR, 0x00);
    expect(read(MSR) & 0xf0).toBe(0xb0);
  });

  test('a modem line that changes interrupts if asked to', () => {
    write(IER, 0x08);
    write(MCR, 0x10);
    expect([line.level, read(IIR) & 0x0f]).toEqual([true, 0x00]);
    read(MSR);
    expect(line.level).toBe(false);
  });

  test('a state saved half-way through input and output goes on in a fresh chip', () => {
    write(IIR, 0x81);
    write(IER, 0x07);
    uart.receive(ascii('typed ahead'));
    read(RBR);
    read(RBR);
    const freshLine = new TestLine();
    const fresh = new Ns16550({ irq: freshLine, output: new TestOutput() });
    fresh.load(structuredClone(uart.save()));
    expect(fresh.save()).toEqual(uart.save());
    expect(freshLine.level).toBe(true);
    const rest = Array.from({ length: 10 }, () => fresh.read(RBR, 1));
    expect(rest).toEqual(Array.from({ length: 10 }, () => uart.read(RBR, 1)));
    expect(String.fromCharCode(...rest)).toBe('ped ahead\0');
    expect(() => fresh.load({ ...uart.save(), ier: 256 })).toThrow('EINVAL');
    expect(() => fresh.load({ ...uart.save(), rx: new Uint8Array(4097) })).toThrow('EINVAL');
  });

  test('any access at any place is answered with a byte, and the line agrees with IIR', () => {
    const access = fc.record({
      offset: fc.nat(0xff),
      bytes: fc.constantFrom(1, 2, 4),
      value: fc.nat(0xffff_ffff),
      write: fc.boolean(),
      input: fc.uint8Array({ maxLength: 20 }),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 80 }), accesses => {
        const wire = new TestLine();
        const chip = new Ns16550({ irq: wire, output: new TestOutput() });
        for (const { offset, bytes, value, write, input } of accesses) {
          chip.receive(input);
          if (write) chip.write(offset % 16, bytes, value);
          else expect(chip.read(offset, bytes)).toBeLessThan(256);
          const before = wire.level;
          expect((chip.read(IIR, 1) & 1) === 0).toBe(before);
        }
      }),
      { seed: 8250, numRuns: 200 },
    );
  });
});
