import { expect, test } from 'vitest';
import { MIB } from '../base/units.ts';
import { kernelBytes, place } from './boot.ts';

function image(bytes: number, claimed: number): Uint8Array {
  const file = new Uint8Array(bytes);
  const view = new DataView(file.buffer);
  view.setUint32(0x38, 0x05435352, true);
  view.setUint32(0x10, claimed, true);
  return file;
}

test('kernel, initrd and device tree lie apart, the tree in the last 2 MiB', () => {
  const kernel = image(20 * MIB, 24 * MIB);
  expect(place({ kernel, initrd: new Uint8Array(5000) }, 128 * MIB)).toEqual({
    kernel: 0x80000000,
    initrd: 0x80000000 + 126 * MIB - 8192,
    initrdBytes: 5000,
    deviceTree: 0x80000000 + 126 * MIB,
    end: 0x80000000 + 128 * MIB,
  });
});

test('what is no kernel, a kernel cut short, and too little RAM each have a code and a hint', () => {
  const hint = expect.any(String);
  expect(() => kernelBytes(new Uint8Array(4096))).toThrow(
    expect.objectContaining({ code: 'E_NOT_AN_IMAGE', hint }),
  );
  expect(() => kernelBytes(image(4096, 24 * MIB))).toThrow(
    expect.objectContaining({ code: 'E_KERNEL_TRUNCATED', hint }),
  );
  const kernel = image(20 * MIB, 24 * MIB);
  expect(() => place({ kernel }, 80 * MIB)).toThrow(
    expect.objectContaining({ code: 'E_MEMORY_TOO_SMALL', hint }),
  );
  expect(() => place({ kernel, initrd: new Uint8Array(90 * MIB) }, 112 * MIB)).toThrow(
    expect.objectContaining({ code: 'E_MEMORY_TOO_SMALL', hint }),
  );
});
