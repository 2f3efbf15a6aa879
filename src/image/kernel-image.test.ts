import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FaultlineError } from '../base/error.ts';
import { kernelFixture } from './image.fixture.ts';
import { readKernelHeader } from './kernel-image.ts';

const codeOf = (file: Uint8Array): string => {
  try {
    readKernelHeader(file);
    return 'ok';
  } catch (error) {
    if (error instanceof FaultlineError) return error.code;
    throw error;
  }
};

describe('the header of a kernel', () => {
  test('says where it likes to lie and how much it takes', () => {
    expect(readKernelHeader(kernelFixture())).toEqual({
      textOffset: 0x200000,
      imageSize: 0x10000,
      versionMajor: 0,
      versionMinor: 2,
    });
  });

  test('cut anywhere says that it is cut', () => {
    const file = kernelFixture();
    const codes = new Set<string>();
    for (let n = 0; n < file.length; n += 7) codes.add(codeOf(file.subarray(0, n)));
    expect([...codes]).toEqual(['E_KERNEL_TRUNCATED']);
  });

  test('other files are named for what they are', () => {
    const start = (...bytes: number[]) => Uint8Array.from({ length: 4096 }, (_, i) => bytes[i] ?? 0);
    expect(() => readKernelHeader(start(0x1f, 0x8b))).toThrow('the kernel is a gzip file');
    expect(() => readKernelHeader(start(0x7f, 0x45, 0x4c, 0x46))).toThrow('the kernel is an ELF file');
    expect(() => readKernelHeader(start())).toThrow('the kernel is no RISC-V Linux Image');
  });

  test('any header is accepted or refused in words', () => {
    const file = kernelFixture();
    const change = fc.record({ at: fc.nat(0x200), to: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 5 }), changes => {
        const damaged = Uint8Array.from(file);
        for (const { at, to } of changes) damaged[at] = to;
        expect(['ok', 'E_NOT_AN_IMAGE', 'E_KERNEL_TRUNCATED']).toContain(codeOf(damaged));
      }),
      { seed: 9, numRuns: 400 },
    );
  });
});
