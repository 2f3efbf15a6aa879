import { readSections, replaceSections, sectionBytes } from './elf-sections.ts';
import { pruneSymbols } from './elf-symbols.ts';

/** What a kernel module says of itself in its `.modinfo` section. */
export type ModuleInfo = {
  readonly name: string;
  /** Modules that must be loaded before, by name. */
  readonly depends: readonly string[];
  /** Names or aliases from `softdep: pre:`; without them a mount can fail (ext4 and crc32c). */
  readonly softPre: readonly string[];
  readonly aliases: readonly string[];
};

const SIGNATURE_MAGIC = new TextEncoder().encode('~Module signature appended~\n');
const SIGNATURE_RECORD = 12;

/** Module names are written with `-` or `_`, which mean the same. */
export const moduleName = (name: string): string => name.replaceAll('-', '_');

/** Reads `.modinfo`: NUL-separated `key=value` strings. Throws E_ELF. */
export function readModuleInfo(file: Uint8Array): ModuleInfo {
  const section = readSections(file).find(s => s.name === '.modinfo');
  const text = section === undefined ? '' : new TextDecoder().decode(sectionBytes(file, section));
  const pairs = text
    .split('\0')
    .filter(s => s.includes('='))
    .map(s => [s.slice(0, s.indexOf('=')), s.slice(s.indexOf('=') + 1)] as const);
  const all = (key: string): string[] => pairs.filter(([k]) => k === key).map(([, value]) => value);
  return {
    name: moduleName(all('name')[0] ?? ''),
    depends: all('depends').flatMap(words(',')).map(moduleName),
    softPre: all('softdep').flatMap(softPre),
    aliases: all('alias'),
  };
}

const words =
  (separator: string | RegExp) =>
  (text: string): string[] =>
    text.split(separator).filter(w => w !== '');

/** The names after `pre:` and before any other `word:`. */
function softPre(text: string): string[] {
  const names: string[] = [];
  let inPre = false;
  for (const word of words(/\s+/)(text)) {
    if (word.endsWith(':')) inPre = word === 'pre:';
    else if (inPre) names.push(word);
  }
  return names;
}

/** The module without the signature that is appended behind its ELF file. */
export function withoutSignature(file: Uint8Array): Uint8Array {
  const magicAt = file.length - SIGNATURE_MAGIC.length;
  const recordAt = magicAt - SIGNATURE_RECORD;
  if (recordAt < 0 || SIGNATURE_MAGIC.some((byte, i) => file[magicAt + i] !== byte)) return file;
  // struct module_signature: the length is its last field, big-endian
  const length = new DataView(file.buffer, file.byteOffset, file.byteLength).getUint32(recordAt + 8, false);
  return length > recordAt ? file : file.subarray(0, recordAt - length);
}

/**
 * What the guest loads: no signature (checking it costs a thousand million instructions), no type
 * information, no debug sections, no labels that nothing refers to. The kernel then taints itself, and
 * says so.
 */
export function stripModule(file: Uint8Array): Uint8Array<ArrayBuffer> {
  const bare = withoutSignature(file);
  const sections = readSections(bare);
  const replacement = pruneSymbols(bare, sections);
  sections.forEach((section, i) => {
    if (isUnneeded(section.name)) replacement.set(i, { bytes: new Uint8Array(0) });
  });
  return replaceSections(bare, sections, replacement);
}

/** Sections that the module loader does not look at. */
export const isUnneeded = (name: string): boolean => /^(\.rela)?\.(BTF|debug_|comment)/.test(name);
