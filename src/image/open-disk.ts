import { ChunkedDisk } from './chunked-disk.ts';
import { nodeCodec, openFileSource } from './node-codec.ts';

/** Opens a disk at rest for a machine, in whichever thread has it. Throws E_NOT_AN_IMAGE, ENOENT. */
export function openDisk(path: string): ChunkedDisk {
  const source = openFileSource(path);
  try {
    return new ChunkedDisk(source, nodeCodec);
  } catch (error) {
    source.close();
    throw error;
  }
}
