import { FaultlineError } from '../base/error.ts';
import type { GuestMemory } from '../devices/interface.ts';
import { load } from './boot.ts';

// Loads a statically linked RV64 ELF at its physical addresses, for `run --bare`. System V gABI, chapters
// 4 and 5. The file is a stranger's: every offset and count is checked before it is used.

export type BareProgram = { entry: number; tohost: number | undefined };

const PT_LOAD = 1;
const SHT_SYMTAB = 2;
const EM_RISCV = 243;

class ElfReader {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  slice(at: number, length: number): Uint8Array {
    if (at < 0 || length < 0 || at + length > this.bytes.length) throw bad('a part lies outside the file');
    return this.bytes.subarray(at, at + length);
  }

  u16(at: number): number {
    this.slice(at, 2);
    return this.#view.getUint16(at, true);
  }

  u32(at: number): number {
    this.slice(at, 4);
    return this.#view.getUint32(at, true);
  }

  /** A 64-bit offset, size or address; those of 2^53 and more can't be meant. */
  u64(at: number): number {
    const value = this.u32(at) + this.u32(at + 4) * 2 ** 32;
    if (value > Number.MAX_SAFE_INTEGER) throw bad('an address is out of range');
    return value;
  }

  string(at: number): string {
    const end = this.bytes.indexOf(0, at);
    return new TextDecoder().decode(this.slice(at, (end < 0 ? this.bytes.length : end) - at));
  }
}

function bad(why: string): FaultlineError {
  return new FaultlineError('E_ELF', `not a program that can be loaded: ${why}`, {
    hint: 'a statically linked ELF64 for riscv, linked at 0x80000000',
  });
}

/** Copies every loadable segment to its physical address. Throws E_ELF; nothing is loaded then. */
export function loadElf(
  file: Uint8Array,
  memory: GuestMemory,
  ram: { base: number; end: number },
): BareProgram {
  const elf = new ElfReader(file);
  checkHeader(elf);
  const segments = programHeaders(elf);
  for (const s of segments) {
    if (s.address < ram.base || s.address + s.memory > ram.end) throw bad('a segment lies outside of RAM');
    if (s.bytes.length > s.memory) throw bad('a segment is larger in the file than in memory');
  }
  for (const s of segments) load(memory, s.address, s.bytes);
  return { entry: elf.u64(24), tohost: findSymbol(elf, 'tohost') };
}

function checkHeader(elf: ElfReader): void {
  if (elf.u32(0) !== 0x464c457f) throw bad('no ELF magic');
  if (elf.bytes[4] !== 2 || elf.bytes[5] !== 1) throw bad('not 64-bit little-endian');
  if (elf.u16(18) !== EM_RISCV) throw bad('for another processor');
}

function programHeaders(elf: ElfReader) {
  const [at, size, count] = [elf.u64(32), elf.u16(54), elf.u16(56)];
  const segments: { address: number; memory: number; bytes: Uint8Array }[] = [];
  for (let i = 0; i < count; i++) {
    const h = at + i * size;
    if (elf.u32(h) !== PT_LOAD) continue;
    segments.push({
      address: elf.u64(h + 24),
      memory: elf.u64(h + 40),
      bytes: elf.slice(elf.u64(h + 8), elf.u64(h + 32)),
    });
  }
  if (segments.length === 0) throw bad('it has no loadable segment');
  return segments;
}

function findSymbol(elf: ElfReader, name: string): number | undefined {
  const [at, size, count] = [elf.u64(40), elf.u16(58), elf.u16(60)];
  for (let i = 0; i < count && at > 0; i++) {
    const section = at + i * size;
    if (elf.u32(section + 4) !== SHT_SYMTAB) continue;
    const strings = elf.u64(at + elf.u32(section + 40) * size + 24);
    const [from, bytes] = [elf.u64(section + 24), elf.u64(section + 32)];
    for (let s = from; s + 24 <= from + bytes; s += 24) {
      if (elf.string(strings + elf.u32(s)) === name) return elf.u64(s + 8);
    }
  }
  return undefined;
}
