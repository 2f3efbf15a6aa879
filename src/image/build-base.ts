import type { BuildOptions, BuiltImage } from './build-options.ts';
export const buildBase = (_options: BuildOptions = {}): Promise<BuiltImage> =>
  Promise.reject(new Error('not yet'));
