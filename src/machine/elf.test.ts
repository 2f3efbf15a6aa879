import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FaultlineError } from '../base/error.ts';
import type { GuestMemory } from '../devices/interface.ts';
import { loadElf } from './elf.ts';

const RAM = { base: 0x8000_0000, end: 0x8001_0000 };

function flatMemory(): { memory: GuestMemory; bytes: Uint8Array } {
  const bytes = new Uint8Array(RAM.end - RAM.base);
  const memory: GuestMemory = {
    pin(gpa, length) {
      const at = gpa - RAM.base;
      return at < 0 || at + length > bytes.length ? 'fault' : { pieces: [bytes.subarray(at, at + length)] };
    },
    unpin() {},
  };
  return { memory, bytes };
}

/** One segment with `payload` at `address`, and a symbol table that names `tohost`. */
function elfFile(payload: Uint8Array, address: number, tohost: number): Uint8Array {
  const strings = new TextEncoder().encode('\0tohost\0');
  const at = { program: 64, payload: 120, strings: 120 + payload.length, symbols: 0, sections: 0 };
  at.symbols = at.strings + strings.length;
  at.sections = at.symbols + 48;
  const file = new Uint8Array(at.sections + 3 * 64);
  const view = new DataView(file.buffer);
  const u64 = (where: number, value: number) => {
    view.setUint32(where, value >>> 0, true);
    view.setUint32(where + 4, Math.floor(value / 2 ** 32), true);
  };
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(18, 243, true);
  u64(24, address);
  u64(32, at.program);
  u64(40, at.sections);
  for (const [where, value] of [
    [54, 56],
    [56, 1],
    [58, 64],
    [60, 3],
  ] as const)
    view.setUint16(where, value, true);
  view.setUint32(at.program, 1, true);
  u64(at.program + 8, at.payload);
  u64(at.program + 24, address);
  u64(at.program + 32, payload.length);
  u64(at.program + 40, payload.length + 16);
  file.set(payload, at.payload);
  file.set(strings, at.strings);
  view.setUint32(at.symbols + 24, 1, true);
  u64(at.symbols + 32, tohost);
  const section = (n: number, type: number, offset: number, size: number, link: number) => {
    view.setUint32(at.sections + n * 64 + 4, type, true);
    u64(at.sections + n * 64 + 24, offset);
    u64(at.sections + n * 64 + 32, size);
    view.setUint32(at.sections + n * 64 + 40, link, true);
  };
  section(1, 3, at.strings, strings.length, 0);
  section(2, 2, at.symbols, 48, 1);
  return file;
}

test('an ELF is loaded at its physical address and its tohost found', () => {
  const { memory, bytes } = flatMemory();
  const program = loadElf(
    elfFile(Uint8Array.of(1, 2, 3, 4), RAM.base + 0x1000, RAM.base + 0x2000),
    memory,
    RAM,
  );
  expect(program).toEqual({ entry: RAM.base + 0x1000, tohost: RAM.base + 0x2000 });
  expect([...bytes.subarray(0x0ffe, 0x1006)]).toEqual([0, 0, 1, 2, 3, 4, 0, 0]);
});

test('an ELF for an address outside of RAM is refused before anything is loaded', () => {
  const { memory, bytes } = flatMemory();
  expect(() => loadElf(elfFile(Uint8Array.of(1), RAM.end - 4, 0), memory, RAM)).toThrow(FaultlineError);
  expect(bytes.every(b => b === 0)).toBe(true);
});

test('whatever bytes claim to be an ELF, they load or are refused with a code', () => {
  const good = elfFile(Uint8Array.of(1, 2, 3, 4), RAM.base, RAM.base + 8);
  const mutation = fc.tuple(fc.nat(good.length - 1), fc.nat(255));
  fc.assert(
    fc.property(fc.array(mutation, { maxLength: 12 }), fc.nat(good.length), (mutations, length) => {
      const file = good.slice(0, length);
      for (const [at, value] of mutations) if (at < file.length) file[at] = value;
      try {
        loadElf(file, flatMemory().memory, RAM);
      } catch (error) {
        expect(error).toMatchObject({
          name: 'FaultlineError',
          code: expect.stringMatching(/^E_(ELF|OUT_OF_MEMORY)$/),
        });
      }
    }),
    { seed: 20261124, numRuns: 3000 },
  );
});
