import { expect, test } from 'vitest';
import { buildElf } from './elf.fixture.ts';
import { buildInitramfs, readApplets } from './initramfs.ts';

const busybox = (table: string) => Buffer.from(`\x7fELF code ${table} more`);

test('the applets of a busybox are read from its table', () => {
  const table = '[\0[[\0ash\0cat\0sh\0zcat\0\0';
  expect(readApplets(busybox(table))).toEqual(['[', '[[', 'ash', 'cat', 'sh', 'zcat']);
});

test('a busybox without a table that makes sense still gets a shell', () => {
  for (const table of ['', '[\0[[\0', '[\0[[\0Bad Name\0sh\0'])
    expect(readApplets(busybox(table))).toContain('sh');
});

test('modules of devices are marked to be loaded only where the device is', () => {
  const file = buildElf([{ name: '.text', data: Buffer.from('code') }]);
  const modules = ['failover', 'virtio_net', 'overlay'].map(name => ({ name, file }));
  const text = Buffer.from(buildInitramfs({ agent: Buffer.from('agent'), modules })).toString('latin1');
  expect(text).toContain('@1 failover\n@1 virtio_net\noverlay\n');
  expect(text).not.toContain('busybox');
});
