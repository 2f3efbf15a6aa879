import { FaultlineError } from '../base/error.ts';
import { type ElfSection, type NewContents, sectionBytes } from './elf-sections.ts';

const SHT_SYMTAB = 2;
const SHT_RELA = 4;
const SYMBOL_BYTES = 24;
const RELA_BYTES = 24;
const STB_LOCAL = 0;
const STT_NOTYPE = 0;

/**
 * RISC-V compilers leave a label at nearly every instruction that is relocated: in virtio_net 28 000 of
 * them, four fifths of the file. Gives new contents for the symbol table, its strings and the
 * relocations, without the local labels that no relocation refers to, and without the names of the
 * others. Throws E_ELF for indices outside their tables.
 */
export function pruneSymbols(file: Uint8Array, sections: readonly ElfSection[]): Map<number, NewContents> {
  const replacement = new Map<number, NewContents>();
  const symtab = sections.findIndex(s => s.type === SHT_SYMTAB);
  const table = sections[symtab];
  const strtab = table === undefined ? undefined : sections[table.link];
  // Tables that share a section would be replaced twice; no module has them.
  if (table === undefined || strtab === undefined || strtab.name !== '.strtab') return replacement;
  const symbols = sectionBytes(file, table);
  // Copies: `slice` of a Buffer would be a view, and the file is also used as it is.
  const relocations = sections
    .map((section, i) => ({ section, i, bytes: new Uint8Array(sectionBytes(file, section)) }))
    .filter(({ section }) => section.type === SHT_RELA && section.link === symtab);
  const used = referred(relocations, Math.floor(symbols.length / SYMBOL_BYTES));
  const { kept, renumbered, locals } = choose(symbols, used);
  for (const { i, bytes } of relocations) {
    renumber(bytes, renumbered);
    replacement.set(i, { bytes });
  }
  const { bytes, strings } = rewrite(symbols, sectionBytes(file, strtab), kept);
  replacement.set(symtab, { bytes, info: locals });
  replacement.set(table.link, { bytes: strings });
  return replacement;
}

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** r_info: the symbol's number is the upper half. */
const symbolAt = (view: DataView, at: number): number => view.getUint32(at + 12, true);

function referred(relocations: readonly { bytes: Uint8Array }[], symbols: number): Uint8Array {
  const used = new Uint8Array(symbols);
  for (const { bytes } of relocations) {
    const view = viewOf(bytes);
    for (let at = 0; at + RELA_BYTES <= bytes.length; at += RELA_BYTES) {
      const symbol = symbolAt(view, at);
      if (symbol >= symbols)
        throw new FaultlineError('E_ELF', 'not a usable ELF file: a relocation of no symbol');
      used[symbol] = 1;
    }
  }
  return used;
}

type Choice = { readonly kept: number[]; readonly renumbered: Uint32Array; readonly locals: number };

function choose(symbols: Uint8Array, used: Uint8Array): Choice {
  const kept: number[] = [];
  const renumbered = new Uint32Array(used.length);
  let locals = 0;
  for (let i = 0; i < used.length; i++) {
    const info = symbols[i * SYMBOL_BYTES + 4]!;
    const label = info >> 4 === STB_LOCAL && (info & 15) === STT_NOTYPE;
    if (i > 0 && label && used[i] === 0) continue;
    renumbered[i] = kept.length;
    kept.push(i);
    if (info >> 4 === STB_LOCAL) locals++;
  }
  return { kept, renumbered, locals };
}

function renumber(bytes: Uint8Array, renumbered: Uint32Array): void {
  const view = viewOf(bytes);
  for (let at = 0; at + RELA_BYTES <= bytes.length; at += RELA_BYTES) {
    view.setUint32(at + 12, renumbered[symbolAt(view, at)]!, true);
  }
}

function rewrite(
  symbols: Uint8Array,
  names: Uint8Array,
  kept: readonly number[],
): { bytes: Uint8Array; strings: Uint8Array } {
  const bytes = new Uint8Array(kept.length * SYMBOL_BYTES);
  const view = viewOf(bytes);
  const strings: number[] = [0];
  kept.forEach((from, to) => {
    bytes.set(symbols.subarray(from * SYMBOL_BYTES, (from + 1) * SYMBOL_BYTES), to * SYMBOL_BYTES);
    const start = view.getUint32(to * SYMBOL_BYTES, true);
    const end = names.indexOf(0, start);
    const info = bytes[to * SYMBOL_BYTES + 4]!;
    const label = info >> 4 === STB_LOCAL && (info & 15) === STT_NOTYPE;
    const named = start > 0 && end > start && !label;
    view.setUint32(to * SYMBOL_BYTES, named ? strings.length : 0, true);
    if (named) for (let at = start; at <= end; at++) strings.push(names[at]!);
  });
  return { bytes, strings: Uint8Array.from(strings) };
}
