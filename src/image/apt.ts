import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaultlineError } from '../base/error.ts';
import { runTool, type ToolResult } from '../host/node/run-tool.ts';

// apt does what it is good at (signatures, hashes, dependencies) in directories of its own: another
// architecture, an empty status file, one source. Nothing of the machine's apt is changed, and no root
// is needed. Each build has its own state, so builds don't wait for each other's locks; the packages
// are shared, by file name and hash.

export type Package = { readonly name: string; readonly version: string; readonly path: string };
export type Release = {
  readonly codename: string;
  readonly version: string;
  readonly date: string;
  readonly suite: string;
};

export type AptSetup = {
  /** Empty directory for this run alone. */
  readonly directory: string;
  /** Where packages are kept between runs. */
  readonly archives: string;
  readonly mirror: string;
  readonly keyring: string;
  readonly onProgress: (line: string) => void;
  /** Whose packages; the guest's unless told. */
  readonly target?: Target;
};

/** A release of Debian, for one architecture. */
export type Target = {
  readonly architecture: 'riscv64' | 'i386';
  readonly codename: string;
  /** Names by which the release may be asked for, in order. */
  readonly suites: readonly string[];
  /** When its first version appeared: nothing signed before is this release. */
  readonly notBefore: number;
};

/**
 * What guests are made of. Between `trixie` and its index a mirror can be out of step for hours while
 * `stable`, the same release by its other name, is whole.
 */
const TRIXIE_RISCV64: Target = {
  architecture: 'riscv64',
  codename: 'trixie',
  suites: ['trixie', 'stable'],
  notBefore: Date.UTC(2025, 7, 9),
};
/** The last Debian with a kernel for i386: what emulators of that processor are measured with. */
export const BOOKWORM_I386: Target = {
  architecture: 'i386',
  codename: 'bookworm',
  suites: ['bookworm', 'oldstable'],
  notBefore: Date.UTC(2023, 5, 10),
};

/** An apt of one architecture's packages, verified. */
export class Apt {
  readonly release: Release;
  readonly #setup: AptSetup;

  private constructor(setup: AptSetup, release: Release) {
    this.#setup = setup;
    this.release = release;
  }

  /** One line for a sources.list. */
  get source(): string {
    return sourceLine(this.#setup, this.release.suite);
  }

  /** Fetches and verifies the index. Throws E_MIRROR, E_SIGNATURE, E_TOOL_MISSING. */
  static async open(setup: AptSetup): Promise<Apt> {
    let failure: FaultlineError | undefined;
    for (const suite of targetOf(setup).suites) {
      prepare(setup, suite);
      setup.onProgress(`reading the index of Debian ${suite}`);
      const result = await apt(setup, 'apt-get', ['update']);
      if (result.code === 0) return new Apt(setup, checkedRelease(setup, suite));
      failure = explainApt(result);
      // Only an index that disagrees with its signed Release is worth another name; a signature never is.
      if (!indexOutOfStep(result.stderr)) break;
      setup.onProgress(`the mirror's index of ${suite} does not match its signed release file`);
    }
    throw failure!;
  }

  /** The packages that a package depends on, first choices only. */
  async dependsOf(name: string): Promise<string[]> {
    const result = await this.#query('apt-cache', ['depends', '--important', name]);
    return [...result.matchAll(/^\s+(?:Pre)?Depends: ([^<\s]+)$/gm)].map(m => m[1]!);
  }

  /** Names of packages in the index that `chosen` picks by their fields. */
  async packagesWhere(chosen: (stanza: string) => boolean): Promise<string[]> {
    const stanzas = (await this.#query('apt-cache', ['dumpavail'])).split('\n\n');
    return stanzas.filter(chosen).map(stanza => /^Package: (\S+)/m.exec(stanza)![1]!);
  }

  /** All that an installation of `names` comes to on an empty system, without recommendations. */
  async solve(names: readonly string[]): Promise<string[]> {
    const args = ['-s', '-y', '--no-install-recommends', 'install', ...names];
    const output = await this.#query('apt-get', args);
    return [...output.matchAll(/^Inst (\S+) \((\S+) /gm)].map(m => `${m[1]}=${m[2]}`);
  }

  /** `name=version` of each name, in its order, as the index has it now. */
  async versions(names: readonly string[]): Promise<string[]> {
    return (await this.#uris(names)).map(exactVersion).sort((a, b) => order(names, a) - order(names, b));
  }

  /** Packages as files, in the order of `names`: from the cache if their hash holds, else by apt, which verifies them. */
  async fetch(names: readonly string[]): Promise<Package[]> {
    const wanted = await this.#uris(names);
    const missing = wanted.filter(file => !isCached(join(this.#setup.archives, file.name), file.sha256));
    if (missing.length > 0) await this.#download(missing);
    return wanted
      .map(file => ({ ...splitName(file.name), path: join(this.#setup.archives, file.name) }))
      .sort((a, b) => order(names, a.name) - order(names, b.name));
  }

  async #download(files: readonly DebFile[]): Promise<void> {
    const { archives, directory, onProgress } = this.#setup;
    const megabytes = files.reduce((sum, f) => sum + f.bytes, 0) / 1e6;
    onProgress(`fetching ${files.length} packages, ${megabytes.toFixed(1)} MB`);
    const into = join(directory, 'download');
    mkdirSync(into, { recursive: true });
    mkdirSync(archives, { recursive: true });
    const result = await apt(this.#setup, 'apt-get', ['download', ...files.map(exactVersion)], into);
    if (result.code !== 0) throw explainApt(result);
    for (const file of files) {
      const path = join(into, file.name);
      if (!isCached(path, file.sha256)) throw mismatch(file.name);
      renameSync(path, join(archives, file.name));
    }
  }

  async #uris(names: readonly string[]): Promise<DebFile[]> {
    const output = await this.#query('apt-get', ['download', '--print-uris', ...names]);
    const files = parseUris(output);
    if (files.length !== names.length) {
      throw new FaultlineError('E_MIRROR', 'apt names another number of files than packages were asked for');
    }
    return files;
  }

  async #query(tool: string, args: readonly string[]): Promise<string> {
    const result = await apt(this.#setup, tool, args);
    if (result.code !== 0) throw explainApt(result);
    return Buffer.from(result.stdout).toString();
  }
}

type DebFile = { readonly name: string; readonly bytes: number; readonly sha256: string };

/** Lines `'uri' file bytes SHA256:hash`. */
export function parseUris(output: string): DebFile[] {
  const lines = [...output.matchAll(/^'[^']*' ([^\s/]+\.deb) (\d+) SHA256:([0-9a-f]{64})\s*$/gm)];
  return lines.map(m => ({ name: m[1]!, bytes: Number(m[2]), sha256: m[3]! }));
}

/** `name_1%3a2.0-1_riscv64.deb` by its parts. */
export function splitName(file: string): { name: string; version: string } {
  const [name, version] = file.split('_');
  return { name: name!, version: decodeURIComponent(version ?? '') };
}

function exactVersion(file: DebFile): string {
  const { name, version } = splitName(file.name);
  return `${name}=${version}`;
}

/** Where the package of `spec` stands among `names`, each with or without `=version`. */
const order = (names: readonly string[], spec: string): number =>
  names.findIndex(name => name.split('=')[0] === spec.split('=')[0]);

function isCached(path: string, sha256: string): boolean {
  return existsSync(path) && createHash('sha256').update(readFileSync(path)).digest('hex') === sha256;
}

const targetOf = (setup: AptSetup): Target => setup.target ?? TRIXIE_RISCV64;

const sourceLine = (setup: AptSetup, suite: string): string =>
  `deb [arch=${targetOf(setup).architecture} signed-by=${setup.keyring}] ${setup.mirror} ${suite} main\n`;

function prepare(setup: AptSetup, suite: string): void {
  const at = (name: string) => join(setup.directory, name);
  mkdirSync(at(`lists-${suite}/partial`), { recursive: true });
  mkdirSync(at('cache/archives/partial'), { recursive: true });
  writeFileSync(at('status'), '');
  writeFileSync(at('sources.list'), sourceLine(setup, suite));
  writeFileSync(at('apt.conf'), aptConfiguration(setup, suite));
}

/** Read after the machine's own configuration, whose proxies therefore hold. */
function aptConfiguration(setup: AptSetup, suite: string): string {
  const { directory } = setup;
  const { architecture } = targetOf(setup);
  return `#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
APT::Architecture "${architecture}";
APT::Architectures { "${architecture}"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Dir::State "${directory}";
Dir::State::lists "${directory}/lists-${suite}";
Dir::State::status "${directory}/status";
Dir::State::extended_states "${directory}/extended_states";
Dir::Cache "${directory}/cache";
Dir::Etc::sourcelist "${directory}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
`;
}

function apt(setup: AptSetup, tool: string, args: readonly string[], cwd?: string): Promise<ToolResult> {
  return runTool(
    tool,
    ['-c', join(setup.directory, 'apt.conf'), '-q', ...args],
    cwd === undefined ? {} : { cwd },
  );
}

/** What the Release file, whose signature apt has checked, says it is. */
function checkedRelease(setup: AptSetup, suite: string): Release {
  const lists = join(setup.directory, `lists-${suite}`);
  const file = readdirSync(lists).find(name => /_(In)?Release$/.test(name));
  if (file === undefined) throw new FaultlineError('E_SIGNATURE', 'apt kept no signed release file');
  return parseRelease(readFileSync(join(lists, file), 'utf8'), suite, targetOf(setup));
}

/** Throws E_SIGNATURE for another release, or one older than this release can be. */
export function parseRelease(text: string, suite: string, target = TRIXIE_RISCV64): Release {
  const field = (name: string): string => new RegExp(`^${name}: (.*)$`, 'm').exec(text)?.[1]?.trim() ?? '';
  const codename = field('Codename');
  const date = field('Date');
  if (codename !== target.codename) {
    throw new FaultlineError(
      'E_SIGNATURE',
      `the mirror's '${suite}' is '${codename}', not ${target.codename}`,
      {
        hint: '--mirror URL of a Debian mirror that carries it',
      },
    );
  }
  if (!(Date.parse(date) >= target.notBefore)) {
    throw new FaultlineError(
      'E_SIGNATURE',
      `the mirror's ${suite} is dated '${date}', before it was released`,
    );
  }
  return { codename, version: field('Version'), date, suite };
}

const mismatch = (what: string): FaultlineError =>
  new FaultlineError('E_SIGNATURE', `what the mirror serves does not match the signed index: ${what}`, {
    hint: 'the mirror may be in the middle of an update: again in an hour, or --mirror URL of another',
  });

const indexOutOfStep = (stderr: string): boolean =>
  /unexpected size|Hash Sum mismatch/.test(stderr) && !/GPG error|not signed|NO_PUBKEY|BADSIG/.test(stderr);

/** One line of what apt says in many. */
export function explainApt(result: Pick<ToolResult, 'stderr'>): FaultlineError {
  const lines = result.stderr.split('\n').filter(line => /^[EW]: /.test(line));
  const first = (lines.find(line => line.startsWith('E: ')) ?? lines[0] ?? 'E: no reason given').slice(3);
  if (
    /GPG error|NO_PUBKEY|BADSIG|EXPKEYSIG|not signed|signature|no longer signed|does not have a Release/i.test(
      result.stderr,
    )
  ) {
    const reason = lines.find(line => /GPG|PUBKEY|sign/i.test(line))?.slice(3) ?? first;
    return new FaultlineError('E_SIGNATURE', `the mirror's release file is not signed by Debian: ${reason}`, {
      hint: '--mirror URL of another, or --keyring FILE',
    });
  }
  if (/unexpected size|Hash Sum mismatch|authenticat/.test(result.stderr)) return mismatch(first);
  if (/Unable to locate package|has no installation candidate/.test(result.stderr)) {
    return new FaultlineError('E_USAGE', first, { hint: 'a package of Debian trixie for riscv64' });
  }
  return new FaultlineError('E_MIRROR', `the mirror cannot be used: ${first}`, {
    hint: '--mirror URL, or FAULTLINE_DEBIAN_MIRROR=URL',
  });
}
