import { join } from 'node:path';
import { withTemporaryDirectory } from '../src/host/node/atomic-file.ts';
import { cacheDirectory } from '../src/host/node/cache-dir.ts';
import { Apt, type Target } from '../src/image/apt.ts';
import { findKeyring, findMirror } from '../src/image/debian-mirror.ts';

type AptOptions = { target?: Target; onProgress: (line: string) => void };

/** An apt of its own for the time of `use`; packages stay in the cache. `work` is gone afterwards, too. */
export function withApt<T>(options: AptOptions, use: (apt: Apt, work: string) => Promise<T>): Promise<T> {
  return withTemporaryDirectory(join(cacheDirectory(), 'tmp'), async work => {
    const apt = await Apt.open({
      directory: join(work, 'apt'),
      archives: join(cacheDirectory(), 'debs'),
      mirror: await findMirror({}),
      keyring: findKeyring({}),
      ...options,
    });
    return use(apt, work);
  });
}
