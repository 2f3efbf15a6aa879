import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';

export type Environment = Readonly<Record<string, string | undefined>>;

/** Where built images and downloads live: `FAULTLINE_CACHE`, else the XDG cache directory. */
export function cacheDirectory(env: Environment = process.env): string {
  const own = env.FAULTLINE_CACHE;
  if (own !== undefined && own !== '') return own;
  // The XDG specification: a relative path in the variable is to be ignored.
  const xdg = env.XDG_CACHE_HOME;
  const base = xdg !== undefined && isAbsolute(xdg) ? xdg : join(homedir(), '.cache');
  return join(base, 'faultline');
}
