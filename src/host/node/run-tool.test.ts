import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { publishDirectory, withTemporaryDirectory, writeFileAtomic } from './atomic-file.ts';
import { cacheDirectory } from './cache-dir.ts';
import { runTool } from './run-tool.ts';

describe('a tool', () => {
  test('gives its output, its errors and its code', async () => {
    const script =
      'process.stdin.on("data", d => process.stdout.write(d)); console.error("e"); process.exitCode = 3';
    const result = await runTool(process.execPath, ['-e', script], { input: Buffer.from('in') });
    expect({ ...result, stdout: Buffer.from(result.stdout).toString() }).toEqual({
      code: 3,
      signal: null,
      stdout: 'in',
      stderr: 'e\n',
    });
  });

  test('that is missing says what to type', async () => {
    const env = { PATH: '/nowhere' };
    await expect(runTool('mkfs.erofs', [], { env })).rejects.toMatchObject({
      code: 'E_TOOL_MISSING',
      message: 'mkfs.erofs is not installed',
      hint: 'apt-get install erofs-utils',
    });
  });

  test('gives its lines as they come', async () => {
    const lines: string[] = [];
    await runTool(
      process.execPath,
      ['-e', 'console.log("a\\rb"); console.error("c\\n"); process.stdout.write("half")'],
      {
        onLine: line => lines.push(line),
      },
    );
    expect(lines.sort()).toEqual(['a', 'b', 'c']);
  });
});

describe('the cache directory', () => {
  test('is ours if told, else by the XDG variable, else under home', () => {
    expect(cacheDirectory({ FAULTLINE_CACHE: '/a', XDG_CACHE_HOME: '/b' })).toBe('/a');
    expect(cacheDirectory({ FAULTLINE_CACHE: '', XDG_CACHE_HOME: '/b' })).toBe('/b/faultline');
    expect(cacheDirectory({ XDG_CACHE_HOME: 'relative' })).toMatch(/\/\.cache\/faultline$/);
  });
});

describe('files that appear whole', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'atomic-test-'));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  test('a file is replaced, and nothing is left beside it', () => {
    writeFileAtomic(join(directory, 'f'), 'old');
    writeFileAtomic(join(directory, 'f'), Buffer.from('new'));
    expect(readdirSync(directory)).toEqual(['f']);
    expect(readFileSync(join(directory, 'f'), 'utf8')).toBe('new');
  });

  test('a directory is put where one was', () => {
    for (const version of ['1', '2']) {
      mkdirSync(join(directory, 'made'));
      writeFileSync(join(directory, 'made/version'), version);
      publishDirectory(join(directory, 'made'), join(directory, 'deep/image'));
    }
    expect(readFileSync(join(directory, 'deep/image/version'), 'utf8')).toBe('2');
    expect(readdirSync(directory)).toEqual(['deep']);
  });

  test('a temporary directory goes, whether the work succeeds or not', async () => {
    let seen = '';
    const failing = withTemporaryDirectory(directory, async path => {
      seen = path;
      throw new Error('no');
    });
    await expect(failing).rejects.toThrow('no');
    expect(existsSync(seen)).toBe(false);
  });
});
