import { FaultlineError } from '../base/error.ts';
import { type ModuleInfo, moduleName, readModuleInfo } from './kernel-module.ts';

/** Modules of one kernel package; `read` uncompresses. */
export type ModuleSource = {
  /** Every module's name, with `_`. */
  readonly names: ReadonlySet<string>;
  /** Names of what is built in. */
  readonly builtin: ReadonlySet<string>;
  read(name: string): Promise<Uint8Array>;
};

export type LoadedModule = { readonly name: string; readonly file: Uint8Array };

/**
 * The modules wanted and all they need, dependencies first, each once. `modules.dep` is not in Debian's
 * package (it is made when that is installed), so this reads what the modules say. Throws
 * E_NOT_AN_IMAGE if the kernel has no such module.
 */
export async function moduleClosure(
  source: ModuleSource,
  wanted: readonly string[],
): Promise<LoadedModule[]> {
  const loaded = new Map<string, Uint8Array>();
  const infos = new Map<string, { info: ModuleInfo; file: Uint8Array }>();
  const open = async (name: string) => {
    let known = infos.get(name);
    if (known === undefined) {
      const file = await source.read(name);
      known = { info: readModuleInfo(file), file };
      infos.set(name, known);
    }
    return known;
  };
  const visit = async (name: string, path: readonly string[]): Promise<void> => {
    if (loaded.has(name) || source.builtin.has(name) || path.includes(name)) return;
    if (!source.names.has(name)) {
      throw new FaultlineError('E_NOT_AN_IMAGE', `the kernel package has no module ${name}`);
    }
    const { info, file } = await open(name);
    const soft: string[] = [];
    for (const alias of info.softPre) soft.push(...(await providers(source, open, alias)));
    for (const needed of [...soft, ...info.depends]) await visit(needed, [...path, name]);
    loaded.set(name, file);
  };
  for (const name of wanted) await visit(moduleName(name), []);
  return [...loaded].map(([name, file]) => ({ name, file }));
}

/**
 * Modules that a soft dependency means: the module of that name, or those with that alias. Reading
 * three thousand modules for their aliases takes minutes, so look at those named alike: `crypto-crc32c`
 * is an alias of crc32c_generic. None is no error: the dependency is soft.
 */
async function providers(
  source: ModuleSource,
  open: (name: string) => Promise<{ info: ModuleInfo }>,
  alias: string,
): Promise<string[]> {
  const name = moduleName(alias);
  if (source.names.has(name)) return [name];
  const stem = moduleName(alias.replace(/^crypto-/, ''));
  const found: string[] = [];
  for (const candidate of [...source.names].filter(n => n.startsWith(stem)).sort()) {
    const { info } = await open(candidate);
    if (info.aliases.includes(alias)) found.push(candidate);
  }
  return found;
}
