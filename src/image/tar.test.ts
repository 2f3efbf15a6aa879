import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FaultlineError } from '../base/error.ts';
import { TarReader } from './tar.ts';

type Member = { path: string; type?: string; data?: string; link?: string };

function header(member: Member, size: number): Buffer {
  const block = Buffer.alloc(512);
  block.write(member.path.slice(0, 100), 0);
  block.write('0000644\0', 100);
  block.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  block.write(member.type ?? '0', 156);
  block.write(member.link ?? '', 157);
  block.write('ustar\x0000', 257);
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

function tar(...members: Member[]): Buffer {
  const pieces = members.flatMap(member => {
    const data = Buffer.from(member.data ?? '');
    return [header(member, data.length), data, Buffer.alloc((512 - (data.length % 512)) % 512)];
  });
  return Buffer.concat([...pieces, Buffer.alloc(1024)]);
}

function read(bytes: Uint8Array, pieces: readonly number[] = [bytes.length], want = (_path: string) => true) {
  const reader = new TarReader(want);
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const n = Math.max(1, pieces[i % pieces.length]!);
    reader.push(bytes.subarray(at, at + n));
    at += n;
  }
  return reader
    .finish()
    .map(e => ({ path: e.path, type: e.type, data: Buffer.from(e.data).toString(), link: e.link }));
}

const long = `${'d/'.repeat(90)}file`;
const SAMPLE = tar(
  { path: './boot/', type: '5' },
  { path: './boot/vmlinux', data: 'k'.repeat(1300) },
  { path: './skipped', data: 's'.repeat(600) },
  { path: '././@LongLink', type: 'L', data: `${long}\0` },
  { path: 'short', data: 'by GNU' },
  { path: 'x', type: 'x', data: `${`path=${long}`.length + 5} path=${long}\n` },
  { path: 'short', data: 'by pax' },
  { path: './link', type: '2', link: 'target' },
);
const EXPECTED = [
  { path: 'boot/', type: '5', data: '', link: '' },
  { path: 'boot/vmlinux', type: '0', data: 'k'.repeat(1300), link: '' },
  { path: long, type: '0', data: 'by GNU', link: '' },
  { path: long, type: '0', data: 'by pax', link: '' },
  { path: 'link', type: '2', data: '', link: 'target' },
];

describe('a tar stream', () => {
  test('gives the members wanted, by whatever pieces it comes in', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 1500 }), { minLength: 1, maxLength: 20 }), pieces => {
        expect(read(SAMPLE, pieces, path => path !== 'skipped')).toEqual(EXPECTED);
      }),
      { seed: 2, numRuns: 60 },
    );
  });

  test('cut short is an error, unless only the end marker is missing', () => {
    const body = SAMPLE.length - 1024;
    for (const cut of [1, 511, 700, body - 1])
      expect(() => read(SAMPLE.subarray(0, cut))).toThrow('cut short');
    expect(read(SAMPLE.subarray(0, body))).toHaveLength(6);
  });

  test('damaged is an error of ours or other members, never a crash', () => {
    const change = fc.record({ at: fc.nat(SAMPLE.length - 1), to: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), changes => {
        const bytes = Buffer.from(SAMPLE);
        for (const { at, to } of changes) bytes[at] = to;
        try {
          read(bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(FaultlineError);
        }
      }),
      { seed: 3, numRuns: 300 },
    );
  });
});
