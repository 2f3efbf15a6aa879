import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type CpioEntry, writeCpio } from './cpio.ts';

/** Reads an archive back as the kernel does: header fields in hex, names and data padded to 4. */
function read(
  archive: Uint8Array,
): { path: string; mode: number; size: number; rdev: string; body: string }[] {
  const text = (at: number, n: number) => Buffer.from(archive.subarray(at, at + n)).toString();
  const members = [];
  for (let at = 0; ; ) {
    expect(text(at, 6)).toBe('070701');
    const field = (i: number) => Number.parseInt(text(at + 6 + i * 8, 8), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const path = text(at + 110, nameSize - 1);
    expect(archive[at + 110 + nameSize - 1]).toBe(0);
    const data = at + ((110 + nameSize + 3) & ~3);
    if (path === 'TRAILER!!!') return members;
    members.push({ path, mode, size, rdev: `${field(9)}:${field(10)}`, body: text(data, size) });
    at = data + ((size + 3) & ~3);
  }
}

describe('the newc archive', () => {
  test('has each kind of member with its type, mode and content', () => {
    const archive = writeCpio([
      { path: 'dev', type: 'directory' },
      { path: 'dev/console', type: 'device', major: 5, minor: 1 },
      { path: 'init', type: 'file', mode: 0o755, data: Buffer.from('#!') },
      { path: 'sbin', type: 'symlink', target: 'bin' },
    ]);
    expect(read(archive)).toEqual([
      { path: 'dev', mode: 0o040755, size: 0, rdev: '0:0', body: '' },
      { path: 'dev/console', mode: 0o020600, size: 0, rdev: '5:1', body: '' },
      { path: 'init', mode: 0o100755, size: 2, rdev: '0:0', body: '#!' },
      { path: 'sbin', mode: 0o120777, size: 3, rdev: '0:0', body: 'bin' },
    ]);
    expect(archive.length % 512).toBe(0);
  });

  test('any names and contents come back', () => {
    const file = fc.record({
      path: fc.stringMatching(/^[a-zé]{1,30}$/),
      type: fc.constant('file' as const),
      data: fc.uint8Array({ maxLength: 40 }).map(a => Buffer.from(a.map(b => b & 0x7f))),
    });
    fc.assert(
      fc.property(fc.array(file), (entries: (CpioEntry & { data: Buffer })[]) => {
        const back = read(writeCpio(entries)).map(m => [m.path, m.body]);
        expect(back).toEqual(entries.map(e => [e.path, e.data.toString()]));
      }),
      { seed: 1, numRuns: 100 },
    );
  });
});
