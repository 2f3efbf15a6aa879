import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Script } from 'node:vm';
import { crc32 } from 'node:zlib';
import { cacheDirectory } from './cache-dir.ts';
import { readOwn } from './own-file.ts';

// A thread's code is one script of a megabyte. To compile it, and then each function when it is first called, takes
// some 0.1 s of a start. So what V8 has compiled is kept, and V8 takes it back in a few milliseconds.
//
// A cache holds code that we will run: only a file of this user's is read, to which nobody else may write.

/** What V8 compiled of a script, and where that belongs; undefined when it is there already, or was given before. */
export type TakeCompiled = () => { path: string; bytes: Buffer } | undefined;

/** What a script of the bundle is given beside CommonJS's `require`. */
type Main = (require: NodeJS.Require, moduleUrl: string, takeCompiled: TakeCompiled, handed: unknown) => void;
const PARAMETERS = 'require, moduleUrl, takeCompiled, handed';
const CRC_BYTES = 4;

/** Runs a script of the bundle, a file of ASCII, and hands it something. Without a cache that fits, as if there were none. */
export function runScript(path: string, handed?: unknown): void {
  const source = sourceOf(path);
  const kept = compiledPath(path, source);
  const cachedData = kept && readCompiled(kept);
  const script = new Script(source, { filename: path, ...(cachedData && { cachedData }) });
  let taken = kept === undefined || (cachedData !== undefined && script.cachedDataRejected !== true);
  const take: TakeCompiled = () => {
    if (taken) return undefined;
    taken = true;
    return { path: kept!, bytes: withCrc(script.createCachedData()) };
  };
  (script.runInThisContext() as Main)(createRequire(path), pathToFileURL(path).href, take, handed);
}

/** A script as V8 is given it. */
export const sourceOf = (path: string): string =>
  `(function (${PARAMETERS}) {${readFileSync(path, 'latin1')}\n})`;

/**
 * Named by what it is of and for, as V8 looks at no more of the source than its length. V8 itself refuses another version's, or
 * other flags'. Undefined for a user who has no home.
 */
export function compiledPath(path: string, source: string): string | undefined {
  const of = `${source.length.toString(36)}-${crc32(source).toString(36)}`;
  try {
    return join(cacheDirectory(), 'code', `${basename(path)}-${process.version}-${process.arch}-${of}`);
  } catch {
    return undefined;
  }
}

/** Undefined for what is not there, is not whole, or may be another's. */
export function readCompiled(path: string): Buffer | undefined {
  const bytes = readOwn(path);
  if (bytes === undefined || bytes.length <= CRC_BYTES) return undefined;
  const data = bytes.subarray(CRC_BYTES);
  return crc32(data) === bytes.readUInt32LE(0) ? data : undefined;
}

export function withCrc(data: Buffer): Buffer {
  const crc = Buffer.alloc(CRC_BYTES);
  crc.writeUInt32LE(crc32(data));
  return Buffer.concat([crc, data]);
}
