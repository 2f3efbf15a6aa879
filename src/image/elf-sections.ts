import { FaultlineError } from '../base/error.ts';

/** One section of an ELF64 little-endian file, with its header's place so that it can be rewritten. */
export type ElfSection = {
  readonly name: string;
  readonly type: number;
  readonly offset: number;
  readonly size: number;
  readonly alignment: number;
  /** `sh_link`, `sh_info`: numbers of other sections, by type. */
  readonly link: number;
  readonly info: number;
  /** File offset of its 64-byte header. */
  readonly headerAt: number;
};

const ELF_HEADER = 64;
const SECTION_HEADER = 64;
const SHT_NOBITS = 8;

const bad = (why: string): FaultlineError => new FaultlineError('E_ELF', `not a usable ELF file: ${why}`);

/** The section table. Checks every offset against the file: throws E_ELF, never reads outside. */
export function readSections(file: Uint8Array): ElfSection[] {
  if (file.length < ELF_HEADER) throw bad('shorter than its header');
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (view.getUint32(0, false) !== 0x7f454c46) throw bad('no magic');
  if (view.getUint8(4) !== 2 || view.getUint8(5) !== 1) throw bad('not 64-bit little-endian');
  const table = read64(view, 0x28);
  const count = view.getUint16(0x3c, true);
  const names = view.getUint16(0x3e, true);
  if (view.getUint16(0x3a, true) !== SECTION_HEADER) throw bad('section headers of another size');
  if (table + count * SECTION_HEADER > file.length) throw bad('section table beyond the end');
  const raw = Array.from({ length: count }, (_, i) => readHeader(view, table + i * SECTION_HEADER));
  for (const s of raw) {
    if (s.type !== SHT_NOBITS && s.offset + s.size > file.length) throw bad('section beyond the end');
  }
  const strings = raw[names];
  if (strings === undefined || strings.type === SHT_NOBITS) throw bad('no section names');
  const nameBytes = sectionBytes(file, strings);
  return raw.map(({ nameAt, ...s }) => ({ ...s, name: stringAt(nameBytes, nameAt) }));
}

type RawSection = Omit<ElfSection, 'name'> & { readonly nameAt: number };

function readHeader(view: DataView, at: number): RawSection {
  return {
    nameAt: view.getUint32(at, true),
    type: view.getUint32(at + 4, true),
    offset: read64(view, at + 24),
    size: read64(view, at + 32),
    alignment: read64(view, at + 48),
    link: view.getUint32(at + 40, true),
    info: view.getUint32(at + 44, true),
    headerAt: at,
  };
}

/** The bytes of a section, as a view; empty for one that takes no room in the file. */
export function sectionBytes(
  file: Uint8Array,
  section: Pick<ElfSection, 'type' | 'offset' | 'size'>,
): Uint8Array {
  if (section.type === SHT_NOBITS) return file.subarray(0, 0);
  return file.subarray(section.offset, section.offset + section.size);
}

function stringAt(bytes: Uint8Array, at: number): string {
  const end = bytes.indexOf(0, at);
  return new TextDecoder().decode(bytes.subarray(at, end < 0 ? bytes.length : end));
}

/** What a section becomes: other bytes, and where it has a count in `sh_info`, another count. */
export type NewContents = { readonly bytes: Uint8Array; readonly info?: number };

/**
 * The same file with the contents of some sections replaced, and all moved together: headers first,
 * then each section's bytes at its alignment. Numbers of sections stay, so links and symbols hold. For
 * relocatable files, whose offsets nothing else names.
 */
export function replaceSections(
  file: Uint8Array,
  sections: readonly ElfSection[],
  replacement: ReadonlyMap<number, NewContents>,
): Uint8Array<ArrayBuffer> {
  const table = ELF_HEADER;
  let end = table + sections.length * SECTION_HEADER;
  const placed = sections.map((section, i) => {
    const bytes = replacement.get(i)?.bytes ?? sectionBytes(file, section);
    const alignment = Math.min(Math.max(section.alignment, 1), 4096);
    const offset = Math.ceil(end / alignment) * alignment;
    end = offset + bytes.length;
    return { section, bytes, offset };
  });
  const out = new Uint8Array(end);
  const view = new DataView(out.buffer);
  out.set(file.subarray(0, ELF_HEADER));
  write64(view, 0x28, table);
  placed.forEach(({ section, bytes, offset }, i) => {
    const header = table + i * SECTION_HEADER;
    out.set(file.subarray(section.headerAt, section.headerAt + SECTION_HEADER), header);
    if (section.type === 0) return; // the null section: its fields are not an offset and a size
    const info = replacement.get(i)?.info;
    write64(view, header + 24, offset);
    if (section.type !== SHT_NOBITS) write64(view, header + 32, bytes.length);
    if (info !== undefined) view.setUint32(header + 44, info, true);
    out.set(bytes, offset);
  });
  return out;
}

// Offsets above 2^53 round, and then lie beyond any file, which is what is checked.
const read64 = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;

function write64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}
