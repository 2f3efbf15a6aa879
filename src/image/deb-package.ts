import { FaultlineError } from '../base/error.ts';
import { runTool } from '../host/node/run-tool.ts';
import { type TarEntry, TarReader } from './tar.ts';

/** Those files of a .deb that `want` chooses, in memory. Throws E_TOOL_MISSING, E_IO. */
export async function readDeb(path: string, want: (path: string) => boolean): Promise<TarEntry[]> {
  const reader = new TarReader(want);
  let failure: unknown;
  const result = await runTool('dpkg-deb', ['--fsys-tarfile', path], {
    onChunk: bytes => {
      try {
        if (failure === undefined) reader.push(bytes);
      } catch (error) {
        failure = error;
      }
    },
  });
  if (failure !== undefined) throw failure;
  if (result.code !== 0) {
    throw new FaultlineError('E_IO', `cannot unpack ${path}: ${result.stderr.trim().split('\n')[0]}`);
  }
  return reader.finish();
}
