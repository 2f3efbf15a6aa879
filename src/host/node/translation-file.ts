import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import { writeFileAtomic } from './atomic-file.ts';
import { cacheDirectory } from './cache-dir.ts';
import { readOwn } from './own-file.ts';

// What was translated of guests' code, for the next process. One file for each build of ours, to which each process appends; a
// record is
//
//   u32 length   u32 crc-32 of the bytes   bytes
//
// It holds code that we will run: only a file of this user's is read, to which nobody else may write.

const HEADER_BYTES = 8;
/** Files of other builds that stay. */
const KEPT = 3;
/** A file that is larger is begun anew: what is hot will be so again. */
const MAX_BYTES = 48 * 2 ** 20;

export class TranslationFile {
  readonly #path: string;
  #isWritable = true;
  #isReady = false;

  private constructor(path: string) {
    this.#path = path;
  }

  /** That of the build whose script is at a URL; undefined for sources, or for a user who has no home. */
  static of(scriptUrl: string): TranslationFile | undefined {
    if (!scriptUrl.endsWith('.cjs') || process.getuid === undefined) return undefined;
    try {
      const script = crc32(readFileSync(fileURLToPath(scriptUrl))).toString(36);
      const directory = join(cacheDirectory(), 'regions');
      return new TranslationFile(join(directory, `${script}-${process.arch}`));
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
    const bytes = readOwn(this.#path);
    if (bytes === undefined) return [];
    if (bytes.length > MAX_BYTES) {
      this.#try(() => rmSync(this.#path, { force: true }));
      return [];
    }
    const { records, end } = split(bytes);
    if (end < bytes.length) this.#try(() => this.#cut(bytes.subarray(0, end)));
    return records;
  }

  #cut(bytes: Uint8Array): void {
    writeFileAtomic(this.#path, bytes, { isDurable: false });
  }

  /** One write, so that records of two processes do not mix. A file that cannot be written is left as it is. */
  append(bytes: Uint8Array): void {
    if (!this.#isWritable) return;
    const record = Buffer.alloc(HEADER_BYTES + bytes.length);
    record.writeUInt32LE(bytes.length, 0);
    record.writeUInt32LE(crc32(bytes), 4);
    record.set(bytes, HEADER_BYTES);
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
    const ages = new Map(others.map(path => [path, statSync(path).mtimeMs]));
    others.sort((a, b) => ages.get(b)! - ages.get(a)!);
    for (const path of others.slice(KEPT)) rmSync(path, { force: true });
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

function split(bytes: Buffer): { records: Uint8Array[]; end: number } {
  const records: Uint8Array[] = [];
  let at = 0;
  while (at + HEADER_BYTES <= bytes.length) {
    const end = at + HEADER_BYTES + bytes.readUInt32LE(at);
    const record = bytes.subarray(at + HEADER_BYTES, end);
    if (end > bytes.length || crc32(record) !== bytes.readUInt32LE(at + 4)) break;
    records.push(record);
    at = end;
  }
  return { records, end: at };
}
