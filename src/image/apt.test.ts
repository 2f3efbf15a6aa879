import { describe, expect, test } from 'vitest';
import { BOOKWORM_I386, explainApt, parseRelease, parseUris, splitName } from './apt.ts';
import { pickMirror } from './debian-mirror.ts';

const explain = (stderr: string) => {
  const { code, message } = explainApt({ stderr });
  return `${code} ${message}`;
};

describe('what apt says, in a line', () => {
  test('an unsigned or wrongly signed release is a matter of signature', () => {
    const text =
      'W: GPG error: mirror trixie InRelease: NO_PUBKEY 0E98404D386FA1D9\nE: The repository is not signed.';
    expect(explain(text)).toMatch(
      /^E_SIGNATURE the mirror's release file is not signed by Debian: GPG error/,
    );
    expect(explain('E: The repository does not have a Release file.')).toMatch(/^E_SIGNATURE/);
  });

  test('a file that does not match the index is a matter of signature, too', () => {
    expect(explain('E: Failed to fetch x.deb  Hash Sum mismatch')).toMatch(
      /^E_SIGNATURE what the mirror serves/,
    );
    expect(explain('E: x  File has unexpected size (5 != 6).')).toMatch(
      /^E_SIGNATURE what the mirror serves/,
    );
  });

  test('a host that does not answer is a matter of mirror, a package that is none of usage', () => {
    expect(explain('E: Failed to fetch x  Could not resolve host')).toMatch(
      /^E_MIRROR the mirror cannot be used/,
    );
    expect(explain('E: Unable to locate package nope')).toBe('E_USAGE Unable to locate package nope');
    expect(explain('')).toBe('E_MIRROR the mirror cannot be used: no reason given');
  });
});

describe('the release', () => {
  const release = (codename: string, date: string) =>
    `Origin: Debian\nSuite: stable\nVersion: 13.7\nCodename: ${codename}\nDate: ${date}\n`;

  test('is read from the signed file', () => {
    expect(parseRelease(release('trixie', 'Sat, 12 Sep 2026 07:55:41 UTC'), 'stable')).toEqual({
      codename: 'trixie',
      version: '13.7',
      date: 'Sat, 12 Sep 2026 07:55:41 UTC',
      suite: 'stable',
    });
  });

  test('is that of the target', () => {
    const text = release('bookworm', 'Sat, 12 Sep 2026 07:55:41 UTC');
    expect(parseRelease(text, 'oldstable', BOOKWORM_I386).codename).toBe('bookworm');
    expect(() => parseRelease(text, 'stable')).toThrow("the mirror's 'stable' is 'bookworm', not trixie");
  });

  test('of another name, or of a day before it was, is refused', () => {
    const refused = { code: 'E_SIGNATURE' };
    const reading = (text: string) => () => parseRelease(text, 'stable');
    expect(reading(release('forky', 'Sat, 12 Sep 2026 07:55:41 UTC'))).toThrow(
      expect.objectContaining(refused),
    );
    expect(reading(release('trixie', 'Sat, 01 Jun 2024 00:00:00 UTC'))).toThrow(
      expect.objectContaining(refused),
    );
    expect(reading(release('trixie', ''))).toThrow(expect.objectContaining(refused));
  });
});

test('a package file is named by its parts, epoch and all', () => {
  expect(splitName('busybox-static_1%3a1.37.0-6+b9_riscv64.deb')).toEqual({
    name: 'busybox-static',
    version: '1:1.37.0-6+b9',
  });
});

test('addresses of files are read with their hashes, and only with them', () => {
  const hash = 'ab'.repeat(32);
  const lines = `'http://h/p/a_1_riscv64.deb' a_1_riscv64.deb 12 SHA256:${hash}\n'u' ../b.deb 1 SHA256:${hash}\n'u' c.deb 1 MD5Sum:1\n`;
  expect(parseUris(lines)).toEqual([{ name: 'a_1_riscv64.deb', bytes: 12, sha256: hash }]);
});

describe("the machine's mirror", () => {
  test('is the main archive, not security and not a stranger', () => {
    const lines = [
      'http://other/apt/|Other|Other|main',
      'http://h/debian-security/|Debian|Debian-Security|main',
      'http://h/debian/|Debian|Debian|contrib',
      'http://h/debian/|Debian|Debian|main',
    ];
    expect(pickMirror(lines.join('\n'))).toBe('http://h/debian/');
  });

  test('goes by its path until apt knows its origin, and may be unknown', () => {
    expect(pickMirror('http://h/debian-security/|||main\nhttp://h/debian|||main\n')).toBe('http://h/debian');
    expect(pickMirror('')).toBeUndefined();
  });
});
