import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FaultlineError } from '../base/error.ts';
import { buildElf, buildRelocations, buildSymbols, type FixtureSymbol } from './elf.fixture.ts';
import { readSections, sectionBytes } from './elf-sections.ts';
import { readModuleInfo, stripModule, withoutSignature } from './kernel-module.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const modinfo = (...pairs: string[]) =>
  buildElf([{ name: '.modinfo', data: bytes(pairs.map(p => `${p}\0`).join('')) }]);

function signed(file: Uint8Array, signature = 'signature bytes'): Uint8Array {
  const record = new Uint8Array(12);
  new DataView(record.buffer).setUint32(8, signature.length, false);
  return Buffer.concat([file, bytes(signature), record, bytes('~Module signature appended~\n')]);
}

/** What the loader sees of a relocation: where, and the symbol's value, visibility and name. */
function resolved(file: Uint8Array): string[] {
  const sections = readSections(file);
  const find = (name: string) => sectionBytes(file, sections.find(s => s.name === name)!);
  const view = (of: Uint8Array) => new DataView(of.buffer, of.byteOffset, of.byteLength);
  const [symbols, names, relocations] = [find('.symtab'), find('.strtab'), find('.rela.text')];
  const lines: string[] = [];
  for (let at = 0; at < relocations.length; at += 24) {
    const symbol = view(relocations).getUint32(at + 12, true) * 24;
    const nameAt = view(symbols).getUint32(symbol, true);
    const name = new TextDecoder().decode(names.subarray(nameAt, names.indexOf(0, nameAt)));
    const local = symbols[symbol + 4] === 0;
    const value = view(symbols).getUint32(symbol + 8, true);
    lines.push(`${view(relocations).getUint32(at, true)} -> ${local ? 'local' : name} ${value}`);
  }
  return lines;
}

function moduleOf(
  symbols: readonly FixtureSymbol[],
  relocations: readonly { offset: number; symbol: number }[],
) {
  const { table, strings } = buildSymbols(symbols);
  return buildElf([
    { name: '.text', data: bytes('code') },
    { name: '.rela.text', type: 4, data: buildRelocations(relocations), link: 4, info: 1 },
    { name: '.BTF', data: new Uint8Array(5000) },
    { name: '.symtab', type: 2, data: table, link: 5, info: symbols.findIndex(s => !s.local) + 1 },
    { name: '.strtab', type: 3, data: strings },
  ]);
}

describe('what a module says of itself', () => {
  test('names, dependencies and soft dependencies come from .modinfo', () => {
    const file = modinfo(
      'name=erofs',
      'depends=libcrc32c,crc-itu-t',
      'softdep=pre: crypto-crc32c crypto-x post: never',
      'alias=fs-erofs',
      'description=a=b',
    );
    expect(readModuleInfo(file)).toEqual({
      name: 'erofs',
      depends: ['libcrc32c', 'crc_itu_t'],
      softPre: ['crypto-crc32c', 'crypto-x'],
      aliases: ['fs-erofs'],
    });
  });

  test('a module without .modinfo needs nothing', () => {
    expect(readModuleInfo(buildElf([]))).toEqual({ name: '', depends: [], softPre: [], aliases: [] });
  });
});

describe('stripping', () => {
  test('the signature goes, and a file without one stays', () => {
    const file = modinfo('name=x');
    expect(withoutSignature(signed(file))).toEqual(Buffer.from(file));
    expect(withoutSignature(file)).toBe(file);
  });

  test('a signature longer than the file is none', () => {
    const record = new Uint8Array(12).fill(0xff);
    const file = Buffer.concat([bytes('x'), record, bytes('~Module signature appended~\n')]);
    expect(withoutSignature(file)).toBe(file);
  });

  test('labels that nothing refers to go; type information goes', () => {
    const file = moduleOf(
      [
        { name: '.L1', local: true, value: 1 },
        { name: '.L2', local: true, value: 2 },
        { name: 'printk', local: false, value: 0 },
      ],
      [{ offset: 8, symbol: 2 }],
    );
    const stripped = stripModule(file);
    const sizes = readSections(stripped).map(s => `${s.name} ${s.size}`);
    // The null symbol, .L2 without its name, printk.
    expect(sizes).toEqual([
      ' 0',
      '.text 4',
      '.rela.text 24',
      '.BTF 0',
      '.symtab 72',
      '.strtab 8',
      '.shstrtab 49',
    ]);
    expect(readSections(stripped)[4]!.info).toBe(2);
  });

  test('every relocation still means what it meant, and the input is left as it was', () => {
    const symbol = fc.record({ value: fc.nat(1 << 30), name: fc.stringMatching(/^[a-z_.]{1,8}$/) });
    fc.assert(
      fc.property(
        fc.array(symbol, { minLength: 1 }),
        fc.array(symbol),
        fc.array(fc.nat()),
        (locals, globals, picks) => {
          const symbols = [
            ...locals.map(s => ({ ...s, local: true })),
            ...globals.map(s => ({ ...s, local: false })),
          ];
          const relocations = picks.map((pick, i) => ({
            offset: i * 4,
            symbol: (pick % symbols.length) + 1,
          }));
          // A Buffer, as files come: its slice() is a view.
          const file = Buffer.from(moduleOf(symbols, relocations));
          const before = Buffer.from(file);
          const stripped = stripModule(file);
          expect(file.equals(before)).toBe(true);
          expect(resolved(stripped)).toEqual(resolved(file));
        },
      ),
      { seed: 7, numRuns: 100 },
    );
  });

  test('a damaged file is refused or stripped, never anything else', () => {
    const whole = moduleOf([{ name: 'a', local: true, value: 1 }], [{ offset: 0, symbol: 1 }]);
    const change = fc.record({ at: fc.nat(whole.length - 1), to: fc.integer({ min: 0, max: 255 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), fc.nat(whole.length), (changes, cut) => {
        const file = Uint8Array.from(whole);
        for (const { at, to } of changes) file[at] = to;
        for (const candidate of [file, file.subarray(0, cut)]) {
          try {
            stripModule(candidate);
            readModuleInfo(candidate);
          } catch (error) {
            expect(error).toBeInstanceOf(FaultlineError);
          }
        }
      }),
      { seed: 8, numRuns: 500 },
    );
  });
});
