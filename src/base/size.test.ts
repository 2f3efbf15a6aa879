import { expect, test } from 'vitest';
import { formatSize, parseSize } from './size.ts';

test('sizes are read as people write them', () => {
  const written = ['4096', '256M', '1.5G', '64MiB', '10k', '2GB', '1T'];
  expect(written.map(parseSize)).toEqual([4096, 2 ** 28, 1.5 * 2 ** 30, 2 ** 26, 10240, 2 ** 31, 2 ** 40]);
});

test('what is no size is refused with an example', () => {
  for (const text of ['', 'lots', '-1M', '1X', '1 2', '0x10', '1e9']) {
    expect(() => parseSize(text), text).toThrow(
      expect.objectContaining({ code: 'E_USAGE', hint: expect.any(String) }),
    );
  }
});

test('sizes are printed in the unit that fits', () => {
  expect([0, 1023, 1024, 1536, 2 ** 26, 1.5 * 2 ** 30].map(formatSize)).toEqual([
    '0 B',
    '1023 B',
    '1 KiB',
    '1.5 KiB',
    '64 MiB',
    '1.5 GiB',
  ]);
});
