import { type SpawnOptions, spawn } from 'node:child_process';
import { FaultlineError } from '../../base/error.ts';
import type { Environment } from './cache-dir.ts';

export type ToolOptions = {
  readonly cwd?: string;
  readonly env?: Environment;
  /** Called with each whole line of stderr, and of stdout unless `onChunk` takes that. */
  readonly onLine?: (line: string) => void;
  /** Takes stdout as it comes; the result's `stdout` is then empty. */
  readonly onChunk?: (bytes: Uint8Array) => void;
  readonly input?: Uint8Array;
};

export type ToolResult = {
  /** Exit code; 128 + signal number is not made up, a signal gives `null`. */
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: Uint8Array<ArrayBuffer>;
  readonly stderr: string;
};

/** The line to type where a tool is missing, by the tool's name. Debian's package names. */
const PACKAGE_OF: Readonly<Record<string, string>> = {
  'apt-get': 'apt',
  'apt-cache': 'apt',
  'dpkg-deb': 'dpkg',
  fakeroot: 'fakeroot',
  mmdebstrap: 'mmdebstrap',
  'mkfs.erofs': 'erofs-utils',
  'riscv64-linux-gnu-gcc': 'gcc-riscv64-linux-gnu',
  xz: 'xz-utils',
};

/** E_TOOL_MISSING with the apt line that helps. */
export function toolMissing(tool: string, cause?: unknown): FaultlineError {
  const hint = `apt-get install ${PACKAGE_OF[tool] ?? tool}`;
  return new FaultlineError('E_TOOL_MISSING', `${tool} is not installed`, { hint, cause });
}

/**
 * Runs a program to its end, without a shell, stdin closed unless `input` is given. Resolves whatever
 * the exit code is; throws E_TOOL_MISSING if there is no such program.
 */
export function runTool(
  tool: string,
  args: readonly string[],
  options: ToolOptions = {},
): Promise<ToolResult> {
  const spawnOptions: SpawnOptions = {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: 'C', ...options.env },
    stdio: [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  };
  return new Promise((resolve, reject) => {
    const child = spawn(tool, args, spawnOptions);
    const stdout: Uint8Array[] = [];
    const stderr: Uint8Array[] = [];
    const outLines = lineSplitter(options.onLine);
    const errLines = lineSplitter(options.onLine);
    child.stdout!.on('data', (bytes: Uint8Array) => {
      if (options.onChunk !== undefined) return options.onChunk(bytes);
      stdout.push(bytes);
      outLines(bytes);
    });
    child.stderr!.on('data', (bytes: Uint8Array) => {
      stderr.push(bytes);
      errLines(bytes);
    });
    child.on('error', cause => {
      const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
      reject(missing ? toolMissing(tool, cause) : cause);
    });
    child.on('close', (code, signal) => {
      resolve({ code, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() });
    });
    // A tool that leaves early closes its end; its exit code tells, not our EPIPE.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input);
  });
}

function lineSplitter(onLine: ((line: string) => void) | undefined): (bytes: Uint8Array) => void {
  if (onLine === undefined) return () => {};
  let rest = '';
  return bytes => {
    const lines = (rest + Buffer.from(bytes).toString()).split(/[\r\n]+/);
    rest = lines.pop() as string;
    for (const line of lines) if (line !== '') onLine(line);
  };
}
