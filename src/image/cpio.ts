/** File type bits of a mode, as `stat` has them. */
export const S_IFDIR = 0o040000;
export const S_IFREG = 0o100000;
export const S_IFLNK = 0o120000;
export const S_IFCHR = 0o020000;

/** One member of an archive. Paths are relative, without a leading slash. */
export type CpioEntry =
  | { readonly path: string; readonly type: 'directory'; readonly mode?: number }
  | { readonly path: string; readonly type: 'file'; readonly mode?: number; readonly data: Uint8Array }
  | { readonly path: string; readonly type: 'symlink'; readonly target: string }
  | {
      readonly path: string;
      readonly type: 'device';
      readonly mode?: number;
      readonly major: number;
      readonly minor: number;
    };

const HEADER_BYTES = 110;
const TRAILER = 'TRAILER!!!';
const align4 = (n: number): number => (n + 3) & ~3;

/**
 * A "newc" archive as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format):
 * owners are root, times zero, so equal input gives equal bytes. Padded to 512.
 */
export function writeCpio(entries: readonly CpioEntry[]): Uint8Array<ArrayBuffer> {
  const members = entries.map((entry, i) => member(entry, i + 1));
  members.push({ fields: [0, 0, 0, 0, 1], path: utf8(TRAILER), body: new Uint8Array(0), rdev: [0, 0] });
  const sizes = members.map(m => align4(HEADER_BYTES + m.path.length + 1) + align4(m.body.length));
  const total = sizes.reduce((sum, n) => sum + n, 0);
  const out = new Uint8Array(Math.ceil(total / 512) * 512);
  let at = 0;
  members.forEach((m, i) => {
    out.set(utf8(header(m)), at);
    out.set(m.path, at + HEADER_BYTES);
    out.set(m.body, at + align4(HEADER_BYTES + m.path.length + 1));
    at += sizes[i]!;
  });
  return out;
}

type Member = {
  /** ino, mode, uid, gid, nlink */
  readonly fields: readonly number[];
  readonly path: Uint8Array;
  readonly body: Uint8Array;
  readonly rdev: readonly [number, number];
};

function member(entry: CpioEntry, ino: number): Member {
  const path = utf8(entry.path);
  const none = new Uint8Array(0);
  switch (entry.type) {
    case 'directory':
      return { fields: [ino, S_IFDIR | (entry.mode ?? 0o755), 0, 0, 2], path, body: none, rdev: [0, 0] };
    case 'file':
      return {
        fields: [ino, S_IFREG | (entry.mode ?? 0o644), 0, 0, 1],
        path,
        body: entry.data,
        rdev: [0, 0],
      };
    case 'symlink':
      return { fields: [ino, S_IFLNK | 0o777, 0, 0, 1], path, body: utf8(entry.target), rdev: [0, 0] };
    case 'device': {
      const mode = S_IFCHR | (entry.mode ?? 0o600);
      return { fields: [ino, mode, 0, 0, 1], path, body: none, rdev: [entry.major, entry.minor] };
    }
  }
}

function header(m: Member): string {
  // mtime, size, device numbers of the file system, those of the node, name with its NUL, checksum
  const rest = [0, m.body.length, 0, 0, m.rdev[0], m.rdev[1], m.path.length + 1, 0];
  return `070701${[...m.fields, ...rest].map(n => n.toString(16).padStart(8, '0')).join('')}`;
}

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
