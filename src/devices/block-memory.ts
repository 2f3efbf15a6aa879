import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import type { BlockBackend } from './interface.ts';

const SECTOR = 512;

/** A disk in memory. */
export class MemoryBlock implements BlockBackend {
  readonly sectors: number;
  readonly readOnly: boolean;
  readonly #bytes: Uint8Array;

  /** Over `bytes`, not a copy; a last part of less than a sector is not seen. */
  constructor(bytes: Uint8Array, options: { readOnly?: boolean } = {}) {
    this.#bytes = bytes;
    this.sectors = Math.floor(bytes.length / SECTOR);
    this.readOnly = options.readOnly ?? false;
  }

  read(sector: number, into: Uint8Array): void {
    this.#check(sector, into.length);
    into.set(this.#bytes.subarray(sector * SECTOR, sector * SECTOR + into.length));
  }

  write(sector: number, from: Uint8Array): void {
    this.#check(sector, from.length);
    assert(!this.readOnly, 'block: a read-only disk is not written');
    this.#bytes.set(from, sector * SECTOR);
  }

  flush(): void {}

  #check(sector: number, length: number): void {
    if (length % SECTOR !== 0 || sector + length / SECTOR > this.sectors) {
      throw new Errno('EIO', 'block', 'beyond the end of the disk');
    }
  }
}
