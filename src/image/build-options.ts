import type { Environment } from '../host/node/cache-dir.ts';

/** How and from where an image is built. Everything has a default. */
export type BuildOptions = {
  /** Name in the cache. */
  readonly name?: string;
  /** URL of a Debian mirror; else `FAULTLINE_DEBIAN_MIRROR`, else what this machine's apt uses. */
  readonly mirror?: string;
  /** Keyring file; else `FAULTLINE_DEBIAN_KEYRING`, else the debian-archive-keyring package's. */
  readonly keyring?: string;
  /** Extra Debian packages of the root file system. */
  readonly include?: readonly string[];
  /** Default: `cacheDirectory()`. */
  readonly cache?: string;
  /** Rebuild even if what is there was made from the same plan. */
  readonly force?: boolean;
  readonly env?: Environment;
  /** One line at a time, for people. */
  readonly onProgress?: (line: string) => void;
};

export type BuiltImage = {
  readonly name: string;
  readonly directory: string;
  /** False: what was there is from the same plan. */
  readonly built: boolean;
};
