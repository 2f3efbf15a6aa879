import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Errno } from '../base/errno.ts';
import { FaultlineError } from '../base/error.ts';
import { Random } from '../base/random.ts';
import {
  type ByteSource,
  CHUNK_BYTES,
  type ChunkCodec,
  ChunkedDisk,
  ChunkedDiskWriter,
} from './chunked-disk.ts';
import { nodeCodec } from './node-codec.ts';

/** Zeros, text that compresses and noise that doesn't, in runs that ignore the chunks. */
function content(size: number, seed: number): Uint8Array {
  const random = new Random(seed);
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; ) {
    const kind = random.below(3);
    const end = Math.min(size, at + random.below(150_000));
    for (; kind > 0 && at < end; at++) bytes[at] = kind === 1 ? (at >> 6) & 0xff : random.u32();
    at = end + 1;
  }
  return bytes;
}

function compress(bytes: Uint8Array): Buffer {
  const pieces: Uint8Array[] = [];
  const writer = new ChunkedDiskWriter(bytes.length, nodeCodec, piece => pieces.push(Uint8Array.from(piece)));
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) writer.chunk(bytes.subarray(at, at + CHUNK_BYTES));
  const head = writer.finish();
  const file = Buffer.concat(pieces);
  file.set(head);
  return file;
}

const source = (file: Uint8Array): ByteSource => ({
  length: file.length,
  readAt: (offset, into) => into.set(file.subarray(offset, offset + into.length)),
  close: () => {},
});

const SIZE = 5 * CHUNK_BYTES + 1536;
const DISK = content(SIZE, 42);
const FILE = compress(DISK);

describe('a disk in chunks', () => {
  test('gives back every range of sectors', () => {
    const disk = new ChunkedDisk(source(FILE), nodeCodec, { cachedChunks: 2 });
    expect(disk.sectors).toBe(SIZE / 512);
    const range = fc.tuple(fc.nat(disk.sectors), fc.nat(400));
    fc.assert(
      fc.property(range, ([start, length]) => {
        const sectors = Math.min(length, disk.sectors - start);
        const into = new Uint8Array(sectors * 512).fill(0xee);
        disk.read(start, into);
        expect(Buffer.compare(into, DISK.subarray(start * 512, (start + sectors) * 512))).toBe(0);
      }),
      { seed: 4, numRuns: 150 },
    );
  });

  test('is smaller than what it holds, and a chunk of zeros takes no room', () => {
    expect(compress(new Uint8Array(4 * CHUNK_BYTES)).length).toBe(32 + 4 * 16);
    expect(FILE.length).toBeLessThan(SIZE);
  });

  test('keeps the chunks last used, and inflates the others again', () => {
    let inflated = 0;
    const counting: ChunkCodec = {
      ...nodeCodec,
      inflate(bytes, length) {
        inflated++;
        return nodeCodec.inflate(bytes, length);
      },
    };
    const text = Uint8Array.from({ length: 3 * CHUNK_BYTES }, (_, i) => i >> 9);
    const disk = new ChunkedDisk(source(compress(text)), counting, { cachedChunks: 2 });
    const touch = (chunk: number) => disk.read((chunk * CHUNK_BYTES) / 512, new Uint8Array(512));
    for (const chunk of [0, 1, 0, 1, 0]) touch(chunk);
    expect(inflated).toBe(2);
    touch(2); // drops 1, which 0 was used after
    touch(0);
    expect(inflated).toBe(3);
    touch(1);
    expect(inflated).toBe(4);
  });

  test('refuses ranges beyond its end, and writing', () => {
    const disk = new ChunkedDisk(source(FILE), nodeCodec);
    expect(() => disk.read(disk.sectors, new Uint8Array(512))).toThrow(Errno);
    expect(() => disk.read(-1, new Uint8Array(512))).toThrow(Errno);
    expect(() => disk.read(0, new Uint8Array(100))).toThrow(Errno);
    expect(() => disk.write(0, new Uint8Array(512))).toThrow('EPERM');
  });
});

describe('a damaged disk file', () => {
  /** Everything the file gives: its bytes, or the kind of failure. */
  function outcome(file: Uint8Array): string {
    try {
      const disk = new ChunkedDisk(source(file), nodeCodec);
      const into = new Uint8Array(disk.sectors * 512);
      disk.read(0, into);
      return Buffer.compare(into, DISK) === 0 ? 'right' : 'wrong';
    } catch (error) {
      if (error instanceof Errno) return error.code;
      if (error instanceof FaultlineError) return error.code;
      throw error;
    }
  }

  test('cut anywhere is never read as if it were whole', () => {
    fc.assert(
      fc.property(fc.nat(FILE.length - 1), cut => {
        expect(['E_NOT_AN_IMAGE', 'EIO']).toContain(outcome(FILE.subarray(0, cut)));
      }),
      { seed: 5, numRuns: 100 },
    );
  });

  test('changed anywhere gives the right bytes or a failure, never wrong bytes', () => {
    const change = fc.record({ at: fc.nat(FILE.length - 1), to: fc.integer({ min: 0, max: 255 }) });
    const inHead = fc.record({ at: fc.nat(32 + 16 * 6), to: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.oneof(change, inHead), ({ at, to }) => {
        const file = Uint8Array.from(FILE);
        file[at] = to;
        expect(['right', 'E_NOT_AN_IMAGE', 'EIO']).toContain(outcome(file));
      }),
      { seed: 6, numRuns: 200 },
    );
  });
});
