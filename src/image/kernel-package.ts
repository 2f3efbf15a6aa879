import { FaultlineError } from '../base/error.ts';
import { runTool } from '../host/node/run-tool.ts';
import { readDeb } from './deb-package.ts';
import { readKernelHeader } from './kernel-image.ts';
import { moduleName } from './kernel-module.ts';
import { type LoadedModule, type ModuleSource, moduleClosure } from './module-closure.ts';

/** The parts of Debian's kernel package that a guest needs. */
export type KernelPackage = {
  /** The release, as `uname -r` has it. */
  readonly version: string;
  /** The Image: Debian's vmlinux is one as it is. */
  readonly image: Uint8Array<ArrayBuffer>;
  /** Modules and what they depend on, in load order, as shipped but uncompressed. */
  modules(wanted: readonly string[]): Promise<LoadedModule[]>;
};

/** Reads a linux-image .deb. Holds its compressed modules, 110 MB, until it is let go. */
export async function readKernelPackage(path: string): Promise<KernelPackage> {
  const entries = await readDeb(path, p => /(^boot\/vmlinu[xz]-|\.ko(\.xz)?$|\/modules\.builtin$)/.test(p));
  const kernel = entries.find(e => e.path.startsWith('boot/vmlinu') && e.type === '0');
  if (kernel === undefined) throw new FaultlineError('E_NOT_AN_IMAGE', `${path} holds no kernel`);
  readKernelHeader(kernel.data);
  const source = moduleSource(entries);
  return {
    version: kernel.path.replace(/^boot\/vmlinu[xz]-/, ''),
    image: kernel.data,
    modules: wanted => moduleClosure(source, wanted),
  };
}

function moduleSource(entries: readonly { path: string; data: Uint8Array<ArrayBuffer> }[]): ModuleSource {
  const files = new Map<string, { path: string; data: Uint8Array<ArrayBuffer> }>();
  for (const entry of entries) {
    const match = /([^/]+)\.ko(\.xz)?$/.exec(entry.path);
    if (match !== null) files.set(moduleName(match[1]!), entry);
  }
  const list = entries.find(e => e.path.endsWith('/modules.builtin'));
  const builtin = new TextDecoder().decode(list?.data ?? new Uint8Array(0)).matchAll(/([^/\n]+)\.ko$/gm);
  return {
    names: new Set(files.keys()),
    builtin: new Set([...builtin].map(m => moduleName(m[1]!))),
    async read(name) {
      const file = files.get(name)!;
      return file.path.endsWith('.xz') ? unxz(file.data) : file.data;
    },
  };
}

async function unxz(bytes: Uint8Array): Promise<Uint8Array> {
  const result = await runTool('xz', ['-dc'], { input: bytes });
  if (result.code !== 0)
    throw new FaultlineError('E_IO', `cannot uncompress a module: ${result.stderr.trim()}`);
  return result.stdout;
}
