import { FaultlineError } from '../base/error.ts';

export type TarEntry = {
  /** Without a leading `./`. */
  readonly path: string;
  /** POSIX type flag: '0' file, '2' symbolic link, '5' directory. */
  readonly type: string;
  readonly mode: number;
  readonly link: string;
  readonly data: Uint8Array<ArrayBuffer>;
};

const BLOCK = 512;

/**
 * Reads a tar stream (ustar, GNU and pax long names) in chunks of any size, keeping the data of those
 * members only that `want` chooses: a kernel package unpacks to 140 MB, of which a few are needed.
 */
export class TarReader {
  readonly entries: TarEntry[] = [];
  readonly #want: (path: string) => boolean;
  readonly #block = new Uint8Array(BLOCK);
  #blockFill = 0;
  #current: (Omit<TarEntry, 'data'> & { data: Uint8Array<ArrayBuffer>; keep: boolean }) | null = null;
  /** Bytes of the current member's data seen, of `#size`, which padding rounds up to `#padded`. */
  #at = 0;
  #size = 0;
  #padded = 0;
  #longName: string | null = null;
  #longLink: string | null = null;
  #ended = false;

  constructor(want: (path: string) => boolean) {
    this.#want = want;
  }

  /** Throws E_IO for what is no tar stream. */
  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length && !this.#ended) {
      at += this.#current === null ? this.#pushHeader(chunk, at) : this.#pushData(chunk, at);
    }
  }

  /** Throws E_IO if the stream stopped inside a member. */
  finish(): TarEntry[] {
    if (this.#current !== null || this.#blockFill > 0)
      throw new FaultlineError('E_IO', 'the tar stream is cut short');
    return this.entries;
  }

  #pushHeader(chunk: Uint8Array, at: number): number {
    const n = Math.min(BLOCK - this.#blockFill, chunk.length - at);
    this.#block.set(chunk.subarray(at, at + n), this.#blockFill);
    this.#blockFill += n;
    if (this.#blockFill === BLOCK) {
      this.#blockFill = 0;
      this.#header();
    }
    return n;
  }

  #pushData(chunk: Uint8Array, at: number): number {
    const n = Math.min(this.#padded - this.#at, chunk.length - at);
    const current = this.#current!;
    if (current.keep && this.#at < this.#size) {
      current.data.set(chunk.subarray(at, at + Math.min(n, this.#size - this.#at)), this.#at);
    }
    this.#at += n;
    if (this.#at === this.#padded) this.#endMember();
    return n;
  }

  #header(): void {
    const block = this.#block;
    if (block.every(byte => byte === 0)) {
      this.#ended = true;
      return;
    }
    if (octal(block, 148, 8) !== checksum(block))
      throw new FaultlineError('E_IO', 'not a tar stream: bad checksum');
    const type = String.fromCharCode(block[156]! || 0x30);
    const prefix = text(block, 257, 5) === 'ustar' && block[262] === 0 ? text(block, 345, 155) : '';
    const own = text(block, 0, 100);
    const path = (this.#longName ?? (prefix === '' ? own : `${prefix}/${own}`)).replace(/^\.\//, '');
    this.#size = octal(block, 124, 12);
    this.#padded = Math.ceil(this.#size / BLOCK) * BLOCK;
    const special = type === 'L' || type === 'K' || type === 'x' || type === 'g';
    const keep = special || this.#want(path);
    if (special && this.#size > 1 << 20)
      throw new FaultlineError('E_IO', 'not a usable tar stream: a name too long');
    this.#current = {
      path,
      type,
      mode: octal(block, 100, 8),
      link: this.#longLink ?? text(block, 157, 100),
      data: new Uint8Array(keep ? this.#size : 0),
      keep,
    };
    this.#at = 0;
    if (this.#padded === 0) this.#endMember();
  }

  #endMember(): void {
    const { keep, ...entry } = this.#current!;
    this.#current = null;
    const name = () => text(entry.data, 0, entry.data.length);
    if (entry.type === 'L') this.#longName = name();
    else if (entry.type === 'K') this.#longLink = name();
    else if (entry.type === 'x') this.#pax(new TextDecoder().decode(entry.data));
    else if (entry.type !== 'g') {
      this.#longName = this.#longLink = null;
      if (keep) this.entries.push(entry);
    }
  }

  /** Records `LENGTH key=value\n`. */
  #pax(records: string): void {
    this.#longName = /(?:^|\n)\d+ path=(.*)\n/.exec(records)?.[1] ?? this.#longName;
    this.#longLink = /(?:^|\n)\d+ linkpath=(.*)\n/.exec(records)?.[1] ?? this.#longLink;
  }
}

function text(bytes: Uint8Array, at: number, length: number): string {
  const field = bytes.subarray(at, at + length);
  const end = field.indexOf(0);
  return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
}

function octal(bytes: Uint8Array, at: number, length: number): number {
  const digits = text(bytes, at, length).trim();
  const value = digits === '' ? 0 : /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : Number.NaN;
  // GNU's binary sizes are for members above 8 GiB, which no package has.
  if (!(value < 2 ** 33)) throw new FaultlineError('E_IO', 'not a tar stream: bad number');
  return value;
}

/** Sum of the header's bytes, its own field taken as spaces. */
function checksum(block: Uint8Array): number {
  let sum = 8 * 0x20;
  for (let i = 0; i < BLOCK; i++) if (i < 148 || i >= 156) sum += block[i]!;
  return sum;
}
