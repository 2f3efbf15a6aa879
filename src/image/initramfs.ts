import { type CpioEntry, writeCpio } from './cpio.ts';
import { stripModule } from './kernel-module.ts';
import type { LoadedModule } from './module-closure.ts';

/** Virtio device types (virtio 1.2, 5) whose driver is a module; loaded where the device is. */
const TYPE_OF_MODULE: Readonly<Record<string, number>> = {
  virtio_net: 1,
  net_failover: 1,
  failover: 1,
  virtio_blk: 2,
  virtio_rng: 4,
  rng_core: 4,
  virtio_balloon: 5,
};

export type InitramfsParts = {
  readonly agent: Uint8Array;
  readonly modules: readonly LoadedModule[];
  /** Keep the modules as shipped: signature, type information and all. */
  readonly pristine?: boolean;
  /** Static busybox, which makes the initramfs the whole system. */
  readonly busybox?: Uint8Array;
};

/** The file system the kernel starts from: the agent as /init, its modules, and busybox if given. */
export function buildInitramfs(parts: InitramfsParts): Uint8Array<ArrayBuffer> {
  const list = parts.modules.map(({ name }) => {
    const type = TYPE_OF_MODULE[name];
    return `${type === undefined ? '' : `@${type} `}${name}\n`;
  });
  return writeCpio([
    ...directories('dev', 'proc', 'sys', 'etc', 'root', 'lib', 'lib/modules', 'run'),
    { path: 'tmp', type: 'directory', mode: 0o1777 },
    // The kernel opens it for init before devtmpfs is mounted.
    { path: 'dev/console', type: 'device', major: 5, minor: 1 },
    { path: 'dev/null', type: 'device', mode: 0o666, major: 1, minor: 3 },
    { path: 'init', type: 'file', mode: 0o755, data: parts.agent },
    textFile('etc/modules', list.join('')),
    ...parts.modules.map(m => moduleFile(m, parts.pristine === true)),
    ...(parts.busybox === undefined ? directories('lower', 'rw', 'newroot') : userland(parts.busybox)),
  ]);
}

function moduleFile(module: LoadedModule, pristine: boolean): CpioEntry {
  const data = pristine ? module.file : stripModule(module.file);
  return { path: `lib/modules/${module.name}.ko`, type: 'file', data };
}

function userland(busybox: Uint8Array): CpioEntry[] {
  const applets = readApplets(busybox).filter(name => name !== 'busybox');
  return [
    ...directories('bin', 'mnt', 'usr', 'var'),
    { path: 'sbin', type: 'symlink', target: 'bin' },
    { path: 'usr/bin', type: 'symlink', target: '../bin' },
    { path: 'usr/sbin', type: 'symlink', target: '../bin' },
    { path: 'bin/busybox', type: 'file', mode: 0o755, data: busybox },
    ...applets.map((name): CpioEntry => ({ path: `bin/${name}`, type: 'symlink', target: 'busybox' })),
    textFile('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n'),
    textFile('etc/group', 'root:x:0:\ntty:x:5:\n'),
    textFile('etc/hostname', 'faultline\n'),
    textFile('etc/hosts', '127.0.0.1 localhost faultline\n'),
  ];
}

/**
 * The applets of a busybox, which can't be asked as it doesn't run here: its table of names is one run
 * of NUL-terminated strings in order of the alphabet, which opens with `[` and `[[`.
 */
export function readApplets(busybox: Uint8Array): string[] {
  const start = indexOf(busybox, new TextEncoder().encode('[\0[[\0'));
  if (start < 0) return FALLBACK_APPLETS;
  const names: string[] = [];
  for (let at = start; at < busybox.length; ) {
    const end = busybox.indexOf(0, at);
    const name = new TextDecoder().decode(busybox.subarray(at, end < 0 ? at : end));
    if (!/^[[a-z0-9][a-z0-9_.[-]*$/.test(name) || name.length > 32) break;
    names.push(name);
    at = end + 1;
  }
  return names.includes('sh') ? names : FALLBACK_APPLETS;
}

const FALLBACK_APPLETS = (
  '[ awk basename cat chmod chown chroot clear cp cut date dd df dirname dmesg du echo env expr false find free ' +
  'grep gunzip gzip head hexdump hostname id ip kill killall less ln ls lsmod md5sum mkdir mknod mount mv nproc ps ' +
  'pwd readlink reset rm rmdir sed seq sh sha256sum sleep sort stat stty swapoff swapon sync tail tar tee test time ' +
  'top touch tr true tty umount uname uniq uptime vi wc which xargs yes'
).split(' ');

function indexOf(bytes: Uint8Array, pattern: Uint8Array): number {
  for (let at = bytes.indexOf(pattern[0]!); at >= 0; at = bytes.indexOf(pattern[0]!, at + 1)) {
    if (pattern.every((byte, i) => bytes[at + i] === byte)) return at;
  }
  return -1;
}

const directories = (...paths: string[]): CpioEntry[] => paths.map(path => ({ path, type: 'directory' }));
const textFile = (path: string, text: string): CpioEntry => ({
  path,
  type: 'file',
  data: new TextEncoder().encode(text),
});
