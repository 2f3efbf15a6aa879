import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { cacheDirectory } from './cache-dir.ts';
import { keepCompiled } from './keep-compiled.ts';
import {
  compiledPath,
  readCompiled,
  runScript,
  sourceOf,
  type TakeCompiled,
  withCrc,
} from './script-cache.ts';

vi.mock('./cache-dir.ts', async original => ({
  cacheDirectory: vi.fn((await original<typeof import('./cache-dir.ts')>()).cacheDirectory),
}));

const SCRIPT = `
  const { sep } = require('node:path');
  const twice = n => 2 * n;
  globalThis.seen.push({ moduleUrl, answer: twice(21), sep, takeCompiled });
`;
type Seen = { moduleUrl: string; answer: number; sep: string; takeCompiled: TakeCompiled };

let work: string;
let script: string;
let code: string;

beforeEach(() => {
  work = mkdtempSync(join(tmpdir(), 'faultline-code-'));
  script = join(work, 'script.cjs');
  code = join(work, 'cache', 'code');
  writeFileSync(script, SCRIPT);
  vi.stubEnv('FAULTLINE_CACHE', join(work, 'cache'));
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(work, { recursive: true });
});

/** What the script saw, and whether V8 would have to be asked for what it compiled. */
function run(): Seen & { compiled: ReturnType<TakeCompiled> } {
  const seen: Seen[] = [];
  vi.stubGlobal('seen', seen);
  runScript(script);
  vi.unstubAllGlobals();
  const compiled = seen[0]!.takeCompiled();
  expect(seen[0]!.takeCompiled(), 'given once').toBe(undefined);
  return { ...seen[0]!, compiled };
}

function runAndKeep(): void {
  const { compiled } = run();
  expect(compiled).not.toBe(undefined);
  keepCompiled(() => compiled);
}

const EFFECT = {
  answer: 42,
  sep: expect.any(String),
  moduleUrl: expect.stringMatching(/^file:.*script\.cjs$/),
};

test('a script runs the same with what was kept of it as without, and then there is nothing more to keep', () => {
  runAndKeep();
  expect(readdirSync(code)).toHaveLength(1);
  expect(run()).toMatchObject({ ...EFFECT, compiled: undefined });
});

test('what was kept of another text of the script is not asked for', () => {
  runAndKeep();
  writeFileSync(script, SCRIPT.replace('21', '10 + 11'));
  const { compiled, ...effect } = run();
  expect(effect).toMatchObject(EFFECT);
  expect(compiled).not.toBe(undefined);
});

test('of two texts of the same length and age each has its own', () => {
  runAndKeep();
  const { atime, mtime } = statSync(script);
  writeFileSync(script, SCRIPT.replace('2 * n', '3 * n'));
  utimesSync(script, atime, mtime);
  const seen: Seen[] = [];
  vi.stubGlobal('seen', seen);
  runScript(script);
  vi.unstubAllGlobals();
  expect(seen[0]!.answer).toBe(63);
});

test('what a process left behind that was ended at its work goes with the oldest', () => {
  runAndKeep();
  const name = readdirSync(code)[0]!;
  for (let i = 0; i < 6; i++) {
    writeFileSync(join(code, `.${name}.123-${i}`), '');
    utimesSync(join(code, `.${name}.123-${i}`), i, i);
  }
  writeFileSync(script, `${SCRIPT}\n`);
  runAndKeep();
  expect(readdirSync(code)).toHaveLength(4);
});

test('a user without a home runs it all the same', () => {
  vi.mocked(cacheDirectory).mockImplementationOnce(() => {
    throw new Error('no such user');
  });
  const { compiled, ...effect } = run();
  expect(effect).toMatchObject(EFFECT);
  expect(compiled).toBe(undefined);
});

test('a kept file that is cut short, changed, or no such thing counts for nothing, and is replaced', () => {
  runAndKeep();
  const [path] = readdirSync(code).map(name => join(code, name)) as [string];
  const whole = readFileSync(path);
  const changed = Buffer.from(whole);
  changed[whole.length - 9]! ^= 1;
  for (const bad of [Buffer.alloc(0), whole.subarray(0, 3), whole.subarray(0, whole.length - 5), changed]) {
    writeFileSync(path, bad);
    expect(readCompiled(path)).toBe(undefined);
    runAndKeep();
    expect(readCompiled(path)).not.toBe(undefined);
  }
});

test('bytes that V8 itself refuses are replaced', () => {
  const path = compiledPath(script, sourceOf(script))!;
  keepCompiled(() => ({ path, bytes: withCrc(Buffer.from('not from V8')) }));
  expect(readCompiled(path)?.toString()).toBe('not from V8');
  runAndKeep();
  expect(run()).toMatchObject({ ...EFFECT, compiled: undefined });
});

test('a kept file that others may write to is no code of ours', () => {
  runAndKeep();
  const path = compiledPath(script, sourceOf(script))!;
  for (const mode of [0o664, 0o646]) {
    chmodSync(path, mode);
    expect(readCompiled(path)).toBe(undefined);
  }
  chmodSync(path, 0o644);
  expect(readCompiled(path)).not.toBe(undefined);
});

test('of a script that was built again and again the last few are kept', () => {
  const paths: string[] = [];
  for (let build = 0; build < 7; build++) {
    writeFileSync(script, `${SCRIPT}${'\n'.repeat(build)}`);
    runAndKeep();
    const path = compiledPath(script, sourceOf(script))!;
    utimesSync(path, build, build);
    paths.push(path);
  }
  const left = readdirSync(code).map(name => join(code, name));
  expect(left.sort()).toEqual(paths.slice(-4).sort());
});

test('a cache that cannot be written costs nobody anything', () => {
  writeFileSync(join(work, 'cache'), 'a file where the directory should be');
  const { compiled, ...effect } = run();
  expect(effect).toMatchObject(EFFECT);
  keepCompiled(() => compiled);
  expect(run()).toMatchObject(EFFECT);
});
