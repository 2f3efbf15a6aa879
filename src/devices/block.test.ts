import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MemoryBlock } from './block-memory.ts';
import { OverlayBlock } from './block-overlay.ts';

const SECTOR = 512;
const SECTORS = 45; // no whole number of clusters

const pattern = () => Uint8Array.from({ length: SECTORS * SECTOR }, (_, i) => (i * 13 + (i >>> 8)) & 0xff);

describe('block backends', () => {
  test('an overlay reads as a plain disk would, and its base never changes', () => {
    const step = fc.record({
      sector: fc.nat(SECTORS - 1),
      count: fc.nat(20),
      fill: fc.nat(255),
      write: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), steps => {
        const base = pattern();
        const overlay = new OverlayBlock(new MemoryBlock(base, { readOnly: true }));
        const plain = new MemoryBlock(pattern());
        for (const { sector, count, fill, write } of steps) {
          const length = Math.min(count, SECTORS - sector) * SECTOR;
          if (write) {
            const data = new Uint8Array(length).map((_, i) => fill + i);
            overlay.write(sector, data);
            plain.write(sector, data);
          } else
            expect(Buffer.compare(readAll(overlay, sector, length), readAll(plain, sector, length))).toBe(0);
        }
        expect(Buffer.compare(base, pattern())).toBe(0);
        const copy = new OverlayBlock(new MemoryBlock(pattern()));
        copy.restore(overlay.clusters());
        const whole = SECTORS * SECTOR;
        expect(Buffer.compare(readAll(copy, 0, whole), readAll(plain, 0, whole))).toBe(0);
      }),
      { seed: 4096, numRuns: 100 },
    );
  });

  test('a full overlay refuses a write whole, and still takes what it holds already', () => {
    const overlay = new OverlayBlock(new MemoryBlock(pattern()), { bytesMax: 8192 });
    overlay.write(0, new Uint8Array(8192).fill(1));
    expect(() => overlay.write(8, new Uint8Array(8192))).toThrow('ENOSPC');
    expect([...overlay.clusters().keys()]).toEqual([0, 1]);
    expect(readAll(overlay, 8, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(1));
    overlay.write(3, new Uint8Array(SECTOR).fill(2));
    expect(readAll(overlay, 3, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(2));
  });

  test('nothing is read or written beyond the end', () => {
    for (const disk of [new MemoryBlock(pattern()), new OverlayBlock(new MemoryBlock(pattern()))]) {
      expect(disk.sectors).toBe(SECTORS);
      expect(() => disk.read(SECTORS, new Uint8Array(SECTOR))).toThrow('EIO');
      expect(() => disk.write(SECTORS - 1, new Uint8Array(2 * SECTOR))).toThrow('EIO');
      expect(() => disk.read(0, new Uint8Array(100))).toThrow('EIO');
    }
  });
});

function readAll(disk: MemoryBlock | OverlayBlock, sector: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  disk.read(sector, bytes);
  return bytes;
}
