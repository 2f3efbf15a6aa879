import { Errno } from '../base/errno.ts';
import { FaultlineError } from '../base/error.ts';

// A disk at rest, compressed by the host and never by the guest (design.md 16):
//
//   0   "FLDISK01"
//   8   u32 bytes of a chunk, a power of two of 4 KiB..1 MiB
//   12  u32 chunks
//   16  u64 bytes of the disk, a multiple of 512
//   24  u32 CRC-32 of header and index, this word taken as zero
//   28  u32 zero
//   32  the index: per chunk u64 offset, u32 stored bytes, u32 CRC-32 of the chunk as the guest sees it
//   ..  the chunks, in any order
//
// Little-endian. Stored bytes 0: the chunk is zeros. As many as it has: stored as it is. Fewer: raw
// deflate. The last chunk is padded with zeros to the full length before anything is done with it.

const MAGIC = 'FLDISK01';
const HEADER_BYTES = 32;
const ENTRY_BYTES = 16;
const SECTOR = 512;
const DISK_MAX = 2 ** 44;
export const CHUNK_BYTES = 65536;
const CACHED_CHUNKS = 64;

/** What the format needs of its surroundings; Node's zlib and a file, or a browser's. */
export type ChunkCodec = {
  /** Raw deflate. */
  deflate(bytes: Uint8Array): Uint8Array;
  /** Throws, or gives another length, for what does not inflate to `length` bytes. */
  inflate(bytes: Uint8Array, length: number): Uint8Array;
  crc32(bytes: Uint8Array): number;
};

/** Bytes by offset, synchronous. Fills all of `into` or throws. */
export type ByteSource = {
  readonly length: number;
  readAt(offset: number, into: Uint8Array): void;
  close(): void;
};

/** Compresses a disk piece by piece: `append` writes to the file's end, `finish` gives its start. */
export class ChunkedDiskWriter {
  readonly #codec: ChunkCodec;
  readonly #append: (bytes: Uint8Array) => void;
  readonly #index: DataView<ArrayBuffer>;
  readonly #size: number;
  readonly #chunks: number;
  #next = 0;
  #offset: number;

  /** `size`: bytes of the disk, a multiple of 512. `append` is first called with room for the head. */
  constructor(size: number, codec: ChunkCodec, append: (bytes: Uint8Array) => void) {
    this.#codec = codec;
    this.#append = append;
    this.#size = size;
    this.#chunks = Math.ceil(size / CHUNK_BYTES);
    this.#index = new DataView(new ArrayBuffer(this.#chunks * ENTRY_BYTES));
    this.#offset = HEADER_BYTES + this.#index.byteLength;
    append(new Uint8Array(this.#offset));
  }

  /** The next chunk: CHUNK_BYTES, the last one shorter. */
  chunk(bytes: Uint8Array): void {
    const full = bytes.length === CHUNK_BYTES ? bytes : padded(bytes);
    const at = this.#next++ * ENTRY_BYTES;
    this.#index.setUint32(at + 12, this.#codec.crc32(full), true);
    if (full.every(byte => byte === 0)) return;
    const packed = this.#codec.deflate(full);
    const stored = packed.length < CHUNK_BYTES ? packed : full;
    write64(this.#index, at, this.#offset);
    this.#index.setUint32(at + 8, stored.length, true);
    this.#append(stored);
    this.#offset += stored.length;
  }

  /** Header and index, to be written at the start of the file. */
  finish(): Uint8Array<ArrayBuffer> {
    if (this.#next !== this.#chunks) throw new Errno('EINVAL', 'chunked-disk', 'not every chunk was written');
    const head = new Uint8Array(HEADER_BYTES + this.#index.byteLength);
    const index = new Uint8Array(this.#index.buffer);
    const view = new DataView(head.buffer);
    head.set(new TextEncoder().encode(MAGIC));
    view.setUint32(8, CHUNK_BYTES, true);
    view.setUint32(12, this.#chunks, true);
    write64(view, 16, this.#size);
    head.set(index, HEADER_BYTES);
    view.setUint32(24, this.#codec.crc32(head), true);
    return head;
  }
}

/** A read-only block device over such a file. The shape of `BlockBackend` in devices. */
export class ChunkedDisk {
  readonly sectors: number;
  readonly readOnly = true;
  readonly #source: ByteSource;
  readonly #codec: ChunkCodec;
  readonly #index: DataView;
  readonly #chunkBytes: number;
  /** Least recently used first, as a Map keeps the order of insertion. */
  readonly #cache = new Map<number, Uint8Array>();
  readonly #cachedMax: number;

  /** Throws E_NOT_AN_IMAGE for a file that is not one, is cut short, or whose index is damaged. */
  constructor(source: ByteSource, codec: ChunkCodec, options: { cachedChunks?: number } = {}) {
    const { index, chunkBytes, size } = readIndex(source, codec);
    this.#source = source;
    this.#codec = codec;
    this.#index = index;
    this.#chunkBytes = chunkBytes;
    this.#cachedMax = options.cachedChunks ?? CACHED_CHUNKS;
    this.sectors = size / SECTOR;
  }

  /** Throws EINVAL beyond the end, EIO for a chunk that fails its checksum. */
  read(sector: number, into: Uint8Array): void {
    const start = sector * SECTOR;
    if (!(sector >= 0) || into.length % SECTOR !== 0 || start + into.length > this.sectors * SECTOR) {
      throw new Errno('EINVAL', 'chunked-disk.read');
    }
    for (let done = 0; done < into.length; ) {
      const at = start + done;
      const number = Math.floor(at / this.#chunkBytes);
      const offset = at - number * this.#chunkBytes;
      const length = Math.min(into.length - done, this.#chunkBytes - offset);
      this.#copy(number, offset, into.subarray(done, done + length));
      done += length;
    }
  }

  write(_sector: number, _from: Uint8Array): void {
    throw new Errno('EPERM', 'chunked-disk.write', 'the disk is read-only');
  }

  flush(): void {}

  close(): void {
    this.#cache.clear();
    this.#source.close();
  }

  #copy(number: number, offset: number, into: Uint8Array): void {
    if (this.#index.getUint32(number * ENTRY_BYTES + 8, true) === 0) into.fill(0);
    else into.set(this.#chunk(number).subarray(offset, offset + into.length));
  }

  #chunk(number: number): Uint8Array {
    let bytes = this.#cache.get(number);
    if (bytes === undefined) bytes = this.#load(number);
    else this.#cache.delete(number);
    this.#cache.set(number, bytes);
    if (this.#cache.size > this.#cachedMax) this.#cache.delete(this.#cache.keys().next().value as number);
    return bytes;
  }

  #load(number: number): Uint8Array {
    const at = number * ENTRY_BYTES;
    const stored = new Uint8Array(this.#index.getUint32(at + 8, true));
    this.#source.readAt(read64(this.#index, at), stored);
    const bytes = stored.length === this.#chunkBytes ? stored : this.#inflate(stored);
    if (
      bytes.length !== this.#chunkBytes ||
      this.#codec.crc32(bytes) !== this.#index.getUint32(at + 12, true)
    ) {
      throw new Errno('EIO', 'chunked-disk.read', `chunk ${number} is damaged`);
    }
    return bytes;
  }

  #inflate(stored: Uint8Array): Uint8Array {
    try {
      return this.#codec.inflate(stored, this.#chunkBytes);
    } catch {
      return new Uint8Array(0);
    }
  }
}

function readIndex(
  source: ByteSource,
  codec: ChunkCodec,
): { index: DataView; chunkBytes: number; size: number } {
  const head = bytesAt(source, 0, HEADER_BYTES);
  const view = new DataView(head.buffer);
  const chunkBytes = view.getUint32(8, true);
  const chunks = view.getUint32(12, true);
  const size = read64(view, 16);
  if (new TextDecoder().decode(head.subarray(0, 8)) !== MAGIC) throw damaged('no magic');
  if (chunkBytes < 4096 || chunkBytes > 2 ** 20 || (chunkBytes & (chunkBytes - 1)) !== 0)
    throw damaged('chunk size');
  if (size > DISK_MAX || size % SECTOR !== 0 || Math.ceil(size / chunkBytes) !== chunks)
    throw damaged('size');
  const whole = bytesAt(source, 0, HEADER_BYTES + chunks * ENTRY_BYTES);
  new DataView(whole.buffer).setUint32(24, 0, true);
  if (codec.crc32(whole) !== view.getUint32(24, true)) throw damaged('index checksum');
  const index = new DataView(whole.buffer, HEADER_BYTES);
  for (let at = 0; at < index.byteLength; at += ENTRY_BYTES) {
    const stored = index.getUint32(at + 8, true);
    if (stored > chunkBytes || read64(index, at) + stored > source.length)
      throw damaged('chunk beyond the end');
  }
  return { index, chunkBytes, size };
}

function bytesAt(source: ByteSource, offset: number, length: number): Uint8Array<ArrayBuffer> {
  if (offset + length > source.length) throw damaged('cut short');
  const bytes = new Uint8Array(length);
  source.readAt(offset, bytes);
  return bytes;
}

const damaged = (why: string): FaultlineError =>
  new FaultlineError('E_NOT_AN_IMAGE', `the disk file is damaged: ${why}`, {
    hint: 'faultline image build again',
  });

function padded(bytes: Uint8Array): Uint8Array {
  const full = new Uint8Array(CHUNK_BYTES);
  full.set(bytes);
  return full;
}

const read64 = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;

function write64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}
