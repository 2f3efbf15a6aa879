import { existsSync } from 'node:fs';
import { FaultlineError } from '../base/error.ts';
import { runTool } from '../host/node/run-tool.ts';
import type { BuildOptions } from './build-options.ts';

/**
 * Where Debian's packages come from: the option, FAULTLINE_DEBIAN_MIRROR, or what the apt of this machine
 * uses. No host is known here. Throws E_MIRROR with the three choices, E_USAGE for what is no URL.
 */
export async function findMirror(options: BuildOptions): Promise<string> {
  const env = options.env ?? process.env;
  const told = options.mirror ?? env.FAULTLINE_DEBIAN_MIRROR;
  if (told !== undefined && told !== '') return checkedUrl(told);
  const learnt = await mirrorOfMachine();
  if (learnt === undefined) {
    throw new FaultlineError('E_MIRROR', 'no Debian mirror is known on this machine', {
      hint: '--mirror URL, or FAULTLINE_DEBIAN_MIRROR=URL, or an apt with a Debian source',
    });
  }
  return checkedUrl(learnt);
}

function checkedUrl(url: string): string {
  if (!/^(https?|file|copy|ftp):[^\s"[\]]+$/.test(url)) {
    throw new FaultlineError('E_USAGE', `'${url}' is not the URL of a mirror`);
  }
  return url;
}

async function mirrorOfMachine(): Promise<string | undefined> {
  const format = '$(REPO_URI)|$(ORIGIN)|$(LABEL)|$(COMPONENT)';
  const result = await runTool('apt-get', ['indextargets', '--format', format, 'Created-By: Packages']);
  if (result.code !== 0) return undefined;
  return pickMirror(Buffer.from(result.stdout).toString());
}

/** The main archive among the lines `uri|origin|label|component` of an apt. */
export function pickMirror(lines: string): string | undefined {
  const targets = lines
    .split('\n')
    .map(line => line.split('|'))
    .filter(fields => fields.length === 4 && fields[3] === 'main');
  // Origin and label are empty until the machine's apt has been updated once; then go by the usual path.
  const exact = targets.find(([, origin, label]) => origin === 'Debian' && label === 'Debian');
  const byPath = targets.find(([uri, origin]) => origin === '' && /\/debian\/?$/.test(uri as string));
  return (exact ?? byPath)?.[0];
}

/** The keys that Debian's releases are signed with. Throws E_TOOL_MISSING. */
export function findKeyring(options: BuildOptions): string {
  const env = options.env ?? process.env;
  const path =
    options.keyring ?? env.FAULTLINE_DEBIAN_KEYRING ?? '/usr/share/keyrings/debian-archive-keyring.gpg';
  if (/["\s[\]]/.test(path) || !existsSync(path)) {
    throw new FaultlineError('E_TOOL_MISSING', `there is no keyring ${path}`, {
      hint: 'apt-get install debian-archive-keyring, or --keyring FILE',
    });
  }
  return path;
}
