import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { FaultlineError } from '../base/error.ts';
import { runTool } from '../host/node/run-tool.ts';
import type { Package } from './apt.ts';
import type { BuildContext } from './build-image.ts';

/** Left out of the root: nothing a program needs to run. */
const EXCLUDED = [
  'usr/share/doc',
  'usr/share/man',
  'usr/share/locale',
  'usr/share/info',
  'var/cache/apt',
  'var/log',
];

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
  tidy(root);
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
  if (/(^|\s)(unshare|env|fakeroot):.*No such file/.test(result.stderr)) await runTool(tool, ['--version']);
  const reason = result.stderr.split('\n').filter(line => /error|^E: |failed|cannot/i.test(line));
  throw new FaultlineError(
    'E_IO',
    `${tool} failed: ${reason.at(-1) ?? result.stderr.trim().split('\n').at(-1)}`,
    {
      hint: 'a package whose set-up runs its own programs cannot be built in; install it in the guest',
    },
  );
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

/** Drops what is excluded, and what mmdebstrap copied from this machine. */
function tidy(root: string): void {
  for (const directory of EXCLUDED) {
    const path = join(root, directory);
    if (!existsSync(path)) continue;
    for (const name of readdirSync(path)) rmSync(join(path, name), { recursive: true, force: true });
  }
  // devtmpfs covers it, and as root these are real devices.
  for (const name of readdirSync(join(root, 'dev'))) rmSync(join(root, 'dev', name), { recursive: true });
  for (const name of ['hostname', 'hosts', 'resolv.conf'])
    rmSync(join(root, 'etc', basename(name)), { force: true });
  writeFileSync(join(root, 'etc/hostname'), 'faultline\n');
  writeFileSync(join(root, 'etc/hosts'), '127.0.0.1 localhost faultline\n');
  writeFileSync(join(root, 'etc/resolv.conf'), '');
}
