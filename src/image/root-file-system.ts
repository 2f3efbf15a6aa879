import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaultlineError } from '../base/error.ts';
import { runTool } from '../host/node/run-tool.ts';
import type { Package } from './apt.ts';
import type { BuildContext } from './build-image.ts';

/**
 * Drops what no program needs to run, and what mmdebstrap copied from this machine. A hook and not done
 * afterwards: under fakeroot, files made or removed behind its back get the owner and the type of
 * others. /dev is covered by devtmpfs, and for root these would be real devices.
 */
const TIDY = `cd "$1" && rm -rf usr/share/doc/* usr/share/man/* usr/share/locale/* usr/share/info/* var/log/* dev/* \
  etc/hostname etc/hosts etc/resolv.conf && echo faultline > etc/hostname && : > etc/resolv.conf && \
  echo 127.0.0.1 localhost faultline > etc/hosts`;

/**
 * In chrootless mode the packages' scripts run here, with the new root named by a variable. Debian's own
 * honour it; one that does not would write to this machine, so for root the machine is read-only to them.
 */
const SHIELD =
  'mount --make-rprivate / && mount --bind "$1" "$1" && mount -o remount,bind,ro / && shift && exec "$@"';

/**
 * Makes a Debian tree of the packages, already fetched, and packs it as an uncompressed erofs. Returns
 * the path of that disk. Throws E_TOOL_MISSING, E_IO.
 */
export async function buildRootDisk(
  context: BuildContext,
  packages: readonly Package[],
  include: readonly string[],
): Promise<string> {
  const work = join(context.work, 'root');
  const root = join(work, 'tree');
  const disk = join(work, 'root.erofs');
  mkdirSync(join(work, 'tmp'), { recursive: true });
  writeFileSync(join(work, 'sources.list'), context.apt.source);
  context.progress(`installing ${packages.length} packages`);
  await run(work, 'mmdebstrap', mmdebstrapArguments(work, root, packages, include));
  context.progress('packing the root file system');
  await run(work, 'mkfs.erofs', ['--quiet', disk, root]);
  return disk;
}

function mmdebstrapArguments(
  work: string,
  root: string,
  packages: readonly Package[],
  include: readonly string[],
): string[] {
  const quoted = packages.map(p => quote(p.path)).join(' ');
  return [
    '--mode=chrootless',
    '--architectures=riscv64',
    '--variant=minbase',
    '--format=directory',
    // What is there is not fetched again; apt compares its hash with the index first.
    '--skip=download/empty',
    `--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp ${quoted} "$1/var/cache/apt/archives/"`,
    `--customize-hook=${TIDY}`,
    ...(include.length === 0 ? [] : [`--include=${include.join(',')}`]),
    'trixie',
    root,
    join(work, 'sources.list'),
  ];
}

const quote = (path: string): string => `'${path.replaceAll("'", "'\\''")}'`;

async function run(work: string, tool: string, args: readonly string[]): Promise<void> {
  const [command, ...rest] = (await wrapper(work, tool)).concat(tool, args);
  const result = await runTool(command!, rest, { cwd: work, env: { TMPDIR: join(work, 'tmp') } });
  if (result.code === 0) return;
  throw new FaultlineError('E_IO', `${tool} failed: ${reasonOf(result.stderr)}`, {
    hint: 'a package whose set-up runs its own programs cannot be built in; install it in the guest',
  });
}

/** The line of many that says why: the last that complains, else the first. */
function reasonOf(stderr: string): string {
  const lines = stderr.split('\n').filter(line => line.trim() !== '');
  return lines.findLast(line => /^E: |error|failed|cannot|<E>/i.test(line)) ?? lines[0] ?? 'no reason given';
}

/** What the tool runs under: the shield for root, fakeroot (owners kept in a file) for everyone else. */
async function wrapper(work: string, tool: string): Promise<string[]> {
  if (process.getuid?.() !== 0) {
    const state = join(work, 'fakeroot.state');
    return ['fakeroot', ...(existsSync(state) ? ['-i', state] : []), '-s', state, '--'];
  }
  if (tool !== 'mmdebstrap') return [];
  const shield = ['unshare', '--mount', 'sh', '-c', SHIELD, 'sh', work];
  const works = await runTool(shield[0]!, [...shield.slice(1), 'true']).catch(() => undefined);
  return works?.code === 0 ? shield : [];
}
