import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { PciConfig, type PciFunction } from './pci.ts';
import { PciHost } from './pci-host.ts';
import { TestLine } from './testing.ts';

/** A function with a 32-bit BAR, a 64-bit one, and registers that say how they were reached. */
class Scratch implements PciFunction {
  readonly name = 'scratch';
  readonly log: string[] = [];
  readonly config = new PciConfig(identityOf());
  readConfig(offset: number, bytes: number): number {
    return this.config.read(offset, bytes);
  }
  writeConfig(offset: number, bytes: number, value: number): void {
    this.config.write(offset, bytes, value);
  }
  readBar(bar: number, offset: number, bytes: number): number {
    this.log.push(`read bar${bar}+${offset.toString(16)} ${bytes}`);
    return 0x42;
  }
  writeBar(bar: number, offset: number, bytes: number, value: number): void {
    this.log.push(`write bar${bar}+${offset.toString(16)} ${bytes} ${value}`);
  }
  save() {
    return { version: 1, config: this.config.save() };
  }
  load(): void {}
  reset(): void {
    this.config.reset();
  }
}

function bridge() {
  const lines = Array.from({ length: 4 }, () => new TestLine());
  const host = new PciHost({ lines, ecamLength: 0x1000_0000 });
  const device = new Scratch();
  host.attach(3, device);
  const at = 3 << 15;
  return { lines, host, device, at, ecam: host.ecam };
}

describe('PCI', () => {
  test('the header names the function, and absent ones read all ones', () => {
    const { ecam, at } = bridge();
    expect(ecam.read(at, 4)).toBe(0x56781234);
    expect(ecam.read(at + 8, 4)).toBe(0xff010202);
    expect(ecam.read(at + 0x0e, 1)).toBe(0);
    expect(ecam.read(at + 0x100, 4)).toBe(0);
    for (const absent of [0, 4 << 15, at + 0x1000, at + (1 << 20), 0x0fff_f000]) {
      expect(ecam.read(absent, 4)).toBe(0xffff_ffff);
      expect(ecam.read(absent, 2)).toBe(0xffff);
      ecam.write(absent, 4, 0);
    }
  });

  test('a BAR tells its size when all ones are written to it', () => {
    const { ecam, at } = bridge();
    for (const bar of [0x10, 0x18, 0x1c]) ecam.write(at + bar, 4, 0xffff_ffff);
    expect(ecam.read(at + 0x10, 4)).toBe(0xffff_f000);
    expect([ecam.read(at + 0x18, 4), ecam.read(at + 0x1c, 4)]).toEqual([0xfff0_000c, 0xffff_ffff]);
    ecam.write(at + 0x14, 4, 0xffff_ffff);
    expect(ecam.read(at + 0x14, 4)).toBe(0);
  });

  test('a BAR decodes where it is put, below and above 4 GiB, once memory is enabled', () => {
    const { host, device, ecam, at } = bridge();
    const [low, high] = [host.window(0x4000_0000, 0x4000_0000), host.window(0x4_0000_0000, 0x4_0000_0000)];
    ecam.write(at + 0x10, 4, 0x4567_8000);
    ecam.write(at + 0x18, 4, 0x1230_0000);
    ecam.write(at + 0x1c, 4, 0x5);
    expect(low.read(0x567_8010, 2)).toBe(0xffff);
    ecam.write(at + 4, 2, 2);
    expect(low.read(0x567_8010, 2)).toBe(0x42);
    low.write(0x567_8ffc, 4, 7);
    high.write(0x1_1230_0004, 4, 9);
    expect(low.read(0x567_8ffe, 4)).toBe(0xffff_ffff);
    expect(low.read(0x567_9000, 1)).toBe(0xff);
    expect(device.log).toEqual(['read bar0+10 2', 'write bar0+ffc 4 7', 'write bar2+4 4 9']);
  });

  test('capabilities form a list, and the status says that there is one', () => {
    const { ecam, at } = bridge();
    expect(ecam.read(at + 6, 2)).toBe(0x10);
    expect(ecam.read(at + 0x34, 1)).toBe(0x40);
    expect([ecam.read(at + 0x41, 1), ecam.read(at + 0x49, 1)]).toEqual([0x48, 0]);
  });

  test('only what the specification lets a guest write changes', () => {
    const { ecam, at } = bridge();
    for (let offset = 0; offset < 0x100; offset += 4) ecam.write(at + offset, 4, 0xffff_ffff);
    expect(ecam.read(at, 4)).toBe(0x56781234);
    expect(ecam.read(at + 4, 4)).toBe(0x0010_0546);
    expect(ecam.read(at + 0x2c, 4)).toBe(0x1100_1af4);
    expect(ecam.read(at + 0x3c, 2)).toBe(0x01ff);
    expect(ecam.read(at + 0x44, 4)).toBe(0x05040302 >>> 0);
  });

  test('devices four slots apart share a line, which is high while either asks', () => {
    const { host, lines } = bridge();
    const [a, b, c] = [host.pin(1), host.pin(5), host.pin(2)];
    a.set(true);
    b.set(true);
    a.set(false);
    expect(lines.map(line => line.level)).toEqual([false, true, false, false]);
    b.set(false);
    c.set(true);
    expect(lines.map(line => line.level)).toEqual([false, false, true, false]);
  });

  test('a saved space is taken only by a function like it, and only its writable bits', () => {
    const { device, at, ecam } = bridge();
    ecam.write(at + 0x10, 4, 0x4567_8000);
    ecam.write(at + 4, 2, 6);
    device.config.setInterruptStatus(true);
    const fresh = new PciConfig(identityOf());
    fresh.load(device.config.save());
    expect([fresh.read(0x10, 4), fresh.read(4, 2), fresh.read(6, 1)]).toEqual([0x4567_8000, 6, 0x10]);
    const other = new PciConfig({ ...identityOf(), vendor: 0x4321 });
    expect(() => other.load(device.config.save())).toThrow('EINVAL');
  });

  test('any access to any window is answered inside its width', () => {
    const { host, ecam } = bridge();
    const windows = [ecam, host.window(0x4000_0000, 0x4000_0000), host.emptyWindow(0x1_0000)];
    const access = fc.record({
      window: fc.nat(2),
      at: fc.oneof(fc.nat(0xffff), fc.integer({ min: 0x18000, max: 0x18fff }), fc.nat(0xfff_ffff)),
      bytes: fc.constantFrom(1, 2, 4),
      value: fc.nat(0xffff_ffff),
      write: fc.boolean(),
    });
    fc.assert(
      fc.property(access, ({ window, at, bytes, value, write }) => {
        const target = windows[window]!;
        const offset = at % (target.length - 3);
        if (write) target.write(offset, bytes, value);
        const read = target.read(offset, bytes);
        expect(Number.isInteger(read) && read >= 0 && read < 2 ** (bytes * 8)).toBe(true);
      }),
      { seed: 2, numRuns: 2000 },
    );
  });
});

function identityOf() {
  return {
    vendor: 0x1234,
    device: 0x5678,
    revision: 2,
    classCode: 0xff0102,
    subsystemVendor: 0x1af4,
    subsystem: 0x1100,
    interruptPin: 1,
    bars: [
      { index: 0, length: 0x1000, width: 32, prefetchable: false },
      { index: 2, length: 0x10_0000, width: 64, prefetchable: true },
    ] as const,
    capabilities: [{ bytes: Uint8Array.of(9, 0, 8, 1, 2, 3, 4, 5) }, { bytes: Uint8Array.of(9, 0, 3) }],
  };
}
