import { Errno } from '../base/errno.ts';
import type { BlockBackend } from './interface.ts';

const SECTOR = 512;
/** The grain of copying: a page, which is what file systems write. */
const CLUSTER_SECTORS = 8;
const CLUSTER_BYTES = CLUSTER_SECTORS * SECTOR;

/** A writable disk over one that is never written: what differs is kept by 4 KiB cluster. */
export class OverlayBlock implements BlockBackend {
  readonly sectors: number;
  readonly readOnly = false;
  readonly #base: BlockBackend;
  readonly #clusters = new Map<number, Uint8Array>();
  readonly #clustersMax: number;

  /** `bytesMax` bounds what the overlay keeps; a write beyond it is ENOSPC. */
  constructor(base: BlockBackend, options: { bytesMax?: number } = {}) {
    this.#base = base;
    this.sectors = base.sectors;
    this.#clustersMax = (options.bytesMax ?? Number.POSITIVE_INFINITY) / CLUSTER_BYTES;
  }

  /** Clusters that differ from the base, by number; for a snapshot. The bytes are live. */
  clusters(): ReadonlyMap<number, Uint8Array> {
    return this.#clusters;
  }

  /** Replaces all that differs from the base. */
  restore(clusters: Iterable<readonly [number, Uint8Array]>): void {
    this.#clusters.clear();
    for (const [index, bytes] of clusters) this.#clusters.set(index, bytes.slice());
  }

  read(sector: number, into: Uint8Array): void {
    this.#check(sector, into.length);
    let at = 0;
    while (at < into.length) at += this.#readRun(sector + at / SECTOR, into.subarray(at));
  }

  /** Reads a cluster's part, or all up to the next cluster that differs; returns its bytes. */
  #readRun(sector: number, into: Uint8Array): number {
    const index = Math.floor(sector / CLUSTER_SECTORS);
    const own = this.#clusters.get(index);
    if (own !== undefined) {
      const part = own.subarray((sector % CLUSTER_SECTORS) * SECTOR).subarray(0, into.length);
      into.set(part);
      return part.length;
    }
    const last = Math.ceil((sector + into.length / SECTOR) / CLUSTER_SECTORS);
    let next = index + 1;
    while (next < last && !this.#clusters.has(next)) next++;
    const bytes = Math.min(into.length, (next * CLUSTER_SECTORS - sector) * SECTOR);
    this.#base.read(sector, into.subarray(0, bytes));
    return bytes;
  }

  write(sector: number, from: Uint8Array): void {
    this.#check(sector, from.length);
    this.#reserve(sector, from.length);
    let at = 0;
    while (at < from.length) {
      const here = sector + at / SECTOR;
      const offset = (here % CLUSTER_SECTORS) * SECTOR;
      const part = from.subarray(at, at + CLUSTER_BYTES - offset);
      this.#cluster(here, part.length).set(part, offset);
      at += part.length;
    }
  }

  flush(): void {}

  /** Throws ENOSPC before anything is written. */
  #reserve(sector: number, length: number): void {
    if (this.#clusters.size + length / CLUSTER_BYTES + 2 <= this.#clustersMax) return;
    let fresh = 0;
    const end = sector + length / SECTOR;
    for (let index = Math.floor(sector / CLUSTER_SECTORS); index * CLUSTER_SECTORS < end; index++) {
      if (!this.#clusters.has(index)) fresh++;
    }
    if (this.#clusters.size + fresh > this.#clustersMax)
      throw new Errno('ENOSPC', 'block', 'the overlay is full');
  }

  /** The cluster to write `length` bytes into; copied from the base unless all of it will be replaced. */
  #cluster(sector: number, length: number): Uint8Array {
    const index = Math.floor(sector / CLUSTER_SECTORS);
    const own = this.#clusters.get(index);
    if (own !== undefined) return own;
    const first = index * CLUSTER_SECTORS;
    const bytes = new Uint8Array(Math.min(CLUSTER_SECTORS, this.sectors - first) * SECTOR);
    if (length < bytes.length) this.#base.read(first, bytes);
    this.#clusters.set(index, bytes);
    return bytes;
  }

  #check(sector: number, length: number): void {
    if (length % SECTOR !== 0 || sector + length / SECTOR > this.sectors) {
      throw new Errno('EIO', 'block', 'beyond the end of the disk');
    }
  }
}
