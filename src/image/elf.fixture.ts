/** A section for a test's ELF file. */
export type FixtureSection = {
  readonly name: string;
  readonly type?: number;
  readonly data: Uint8Array;
  readonly link?: number;
  readonly info?: number;
  readonly alignment?: number;
};

/** A relocatable ELF64 of those sections, numbered from 1; the names come last. */
export function buildElf(sections: readonly FixtureSection[]): Uint8Array<ArrayBuffer> {
  const names = ['', ...sections.map(s => s.name), '.shstrtab'];
  const nameAt: number[] = [];
  let strings = '';
  for (const name of names) {
    nameAt.push(strings.length);
    strings += `${name}\0`;
  }
  const all = [...sections, { name: '.shstrtab', type: 3, data: new TextEncoder().encode(strings) }];
  let at = 64;
  const offsets = all.map(s => {
    const start = at;
    at += Math.ceil(s.data.length / 8) * 8;
    return start;
  });
  const file = new Uint8Array(at + (all.length + 1) * 64);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint32(0x28, at, true);
  view.setUint16(0x3a, 64, true);
  view.setUint16(0x3c, all.length + 1, true);
  view.setUint16(0x3e, all.length, true);
  all.forEach((s: FixtureSection, i) => {
    const header = at + (i + 1) * 64;
    file.set(s.data, offsets[i]);
    view.setUint32(header, nameAt[i + 1]!, true);
    view.setUint32(header + 4, s.type ?? 1, true);
    view.setUint32(header + 24, offsets[i]!, true);
    view.setUint32(header + 32, s.data.length, true);
    view.setUint32(header + 40, s.link ?? 0, true);
    view.setUint32(header + 44, s.info ?? 0, true);
    view.setUint32(header + 48, s.alignment ?? 8, true);
  });
  return file;
}

export type FixtureSymbol = { readonly name: string; readonly local: boolean; readonly value: number };

/** A symbol table and its strings. Symbol 0 is the null symbol. */
export function buildSymbols(symbols: readonly FixtureSymbol[]): { table: Uint8Array; strings: Uint8Array } {
  const table = new Uint8Array(24 * (symbols.length + 1));
  const view = new DataView(table.buffer);
  let strings = '\0';
  symbols.forEach((s, i) => {
    view.setUint32((i + 1) * 24, strings.length, true);
    view.setUint8((i + 1) * 24 + 4, s.local ? 0 : 0x10);
    view.setUint32((i + 1) * 24 + 8, s.value, true);
    strings += `${s.name}\0`;
  });
  return { table, strings: new TextEncoder().encode(strings) };
}

/** Relocations, each at an offset and of a symbol by number. */
export function buildRelocations(of: readonly { offset: number; symbol: number }[]): Uint8Array {
  const bytes = new Uint8Array(24 * of.length);
  const view = new DataView(bytes.buffer);
  of.forEach((r, i) => {
    view.setUint32(i * 24, r.offset, true);
    view.setUint32(i * 24 + 8, 18, true);
    view.setUint32(i * 24 + 12, r.symbol, true);
  });
  return bytes;
}
