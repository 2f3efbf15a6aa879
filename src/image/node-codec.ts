import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { crc32, deflateRawSync, inflateRawSync } from 'node:zlib';
import { Errno } from '../base/errno.ts';
import { type ByteSource, CHUNK_BYTES, type ChunkCodec, ChunkedDiskWriter } from './chunked-disk.ts';

/** The codec of `ChunkedDisk` by Node's zlib. */
export const nodeCodec: ChunkCodec = {
  deflate: bytes => deflateRawSync(bytes, { level: 6 }),
  inflate: (bytes, length) => inflateRawSync(bytes, { maxOutputLength: length }),
  crc32: bytes => crc32(bytes) >>> 0,
};

/** A file as a `ByteSource`; it stays open until `close`. Throws EIO on a short read. */
export function openFileSource(path: string): ByteSource {
  const fd = openSync(path, 'r');
  return {
    length: fstatSync(fd).size,
    readAt(offset, into) {
      for (let at = 0; at < into.length; ) {
        const n = readSync(fd, into, at, into.length - at, offset + at);
        if (n === 0) throw new Errno('EIO', 'read', 'the file is shorter than it was');
        at += n;
      }
    },
    close: () => closeSync(fd),
  };
}

/** Writes the disk image at `from` to `to` in chunks. Returns the disk's size in bytes. */
export function compressDisk(from: string, to: string): number {
  const source = openFileSource(from);
  const out = openSync(to, 'wx', 0o644);
  try {
    const size = Math.ceil(source.length / 512) * 512;
    const writer = new ChunkedDiskWriter(size, nodeCodec, bytes => writeAll(out, bytes, null));
    for (let at = 0; at < size; at += CHUNK_BYTES) {
      const chunk = new Uint8Array(Math.min(CHUNK_BYTES, size - at));
      source.readAt(at, chunk.subarray(0, Math.min(chunk.length, source.length - at)));
      writer.chunk(chunk);
    }
    writeAll(out, writer.finish(), 0);
    return size;
  } finally {
    closeSync(out);
    source.close();
  }
}

function writeAll(fd: number, bytes: Uint8Array, position: number | null): void {
  for (let at = 0; at < bytes.length; ) {
    at += writeSync(fd, bytes, at, bytes.length - at, position === null ? null : position + at);
  }
}
