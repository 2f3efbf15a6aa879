import { createHash } from 'node:crypto';
import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import { writeFileAtomic } from './atomic-file.ts';
import { cacheDirectory } from './cache-dir.ts';
import { readOwn } from './own-file.ts';
import { removeOldest } from './remove-oldest.ts';

// What was translated of guests' code, for the next process. One file for each build of ours, to which each process appends; a
// record is
//
//   u32 length   the bytes' SHA-256   the bytes
//
// It holds code that we will run, beside pages that a guest wrote. So only a file of this user's is read, to which nobody else may
// write; and a guest that knows how records are made cannot have two halves of them taken for one.

const DIGEST_BYTES = 32;
const HEADER_BYTES = 4 + DIGEST_BYTES;
/** Files of other builds that stay. */
const KEPT = 3;
/** What a file may grow to; the next process then begins anew: what is hot will be so again. Less than is kept in memory. */
export const MAX_BYTES = 8 * 2 ** 20;

export class TranslationFile {
  readonly #path: string;
  #isWritable = true;
  #isReady = false;
  /** As it was read, and what this process added. */
  #size = 0;

  private constructor(path: string) {
    this.#path = path;
  }

  /**
   * That of the build whose script is at a URL; undefined for sources, for a user who has no home, or who set
   * FAULTLINE_KEEP_CODE to 0.
   */
  static of(scriptUrl: string): TranslationFile | undefined {
    const isWanted = process.env.FAULTLINE_KEEP_CODE !== '0';
    if (!isWanted || !scriptUrl.endsWith('.cjs') || process.getuid === undefined) return undefined;
    try {
      const script = crc32(readFileSync(fileURLToPath(scriptUrl))).toString(36);
      const name = `${script}-${process.version}-${process.arch}`;
      return new TranslationFile(join(cacheDirectory(), 'regions', name));
    } catch {
      return undefined;
    }
  }

  /** At a path of one's own. */
  static at(path: string): TranslationFile {
    return new TranslationFile(path);
  }

  /** All that is whole; behind what is not nothing is, so it goes. */
  read(): Uint8Array[] {
    const bytes = readOwn(this.#path, MAX_BYTES);
    if (bytes === undefined) {
      this.#begin();
      return [];
    }
    const { records, end } = split(bytes);
    this.#size = end;
    if (end < bytes.length) this.#try(() => this.#cut(bytes.subarray(0, end)));
    return records;
  }

  /** One that is too large makes room for another; one that is not to be trusted stays as it is. */
  #begin(): void {
    this.#try(() => {
      const { size, uid } = statSync(this.#path);
      if (uid === process.getuid?.() && size > MAX_BYTES) rmSync(this.#path);
      else this.#isWritable = false;
    });
  }

  #cut(bytes: Uint8Array): void {
    writeFileAtomic(this.#path, bytes, { isDurable: false, mode: 0o600 });
  }

  /** One write, so that records of two processes do not mix. A file that is full, or cannot be written, is left as it is. */
  append(bytes: Uint8Array): void {
    if (!this.#isWritable || this.#size > MAX_BYTES) return;
    const record = Buffer.alloc(HEADER_BYTES + bytes.length);
    record.writeUInt32LE(bytes.length, 0);
    record.set(digest(bytes), 4);
    record.set(bytes, HEADER_BYTES);
    this.#size += record.length;
    this.#isWritable = this.#try(() => {
      if (!this.#isReady) this.#makeRoom();
      this.#isReady = true;
      appendFileSync(this.#path, record, { mode: 0o600 });
    });
  }

  /** Before the first: a directory, without most files of other builds in it. */
  #makeRoom(): void {
    const directory = dirname(this.#path);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    const others = readdirSync(directory)
      .map(name => join(directory, name))
      .filter(path => path !== this.#path);
    this.#try(() => removeOldest(others, KEPT));
  }

  #try(work: () => void): boolean {
    try {
      work();
      return true;
    } catch {
      return false;
    }
  }
}

const digest = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest();

function split(bytes: Buffer): { records: Uint8Array[]; end: number } {
  const records: Uint8Array[] = [];
  let at = 0;
  while (at + HEADER_BYTES <= bytes.length) {
    const end = at + HEADER_BYTES + bytes.readUInt32LE(at);
    const record = bytes.subarray(at + HEADER_BYTES, end);
    if (end > bytes.length || !digest(record).equals(bytes.subarray(at + 4, at + HEADER_BYTES))) break;
    records.push(record);
    at = end;
  }
  return { records, end: at };
}
