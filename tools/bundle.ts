// Part of `npm run build`: the doors for Node, each as one file with what they share in chunks beside them; the command;
// and what its threads and the doors' workers run, each as one script (script-cache.ts). Two hundred modules took 0.3 s
// to load in every thread that a guest has.

import { chmodSync, copyFileSync, rmSync } from 'node:fs';
import { type BuildOptions, build } from 'esbuild';

const OUT = 'dist/bundle';
const common = {
  outdir: OUT,
  bundle: true,
  platform: 'node',
  target: 'node20.19',
  logLevel: 'warning',
} satisfies BuildOptions;

rmSync(OUT, { recursive: true, force: true });
await build({
  ...common,
  entryPoints: { sdk: 'src/sdk/index.ts', mm: 'src/mm/index.ts', kvm: 'src/kvm/index.ts' },
  splitting: true,
  packages: 'external',
  format: 'esm',
});
await build({ ...common, entryPoints: { main: 'src/cli/main.ts' }, format: 'esm' });
await build({
  ...common,
  // All in one folder, where `new URL('./x-worker.ts', import.meta.url)` finds them whoever's code it has become.
  entryPoints: {
    program: 'src/cli/program.ts',
    'machine-worker': 'src/sdk/machine-worker.ts',
    'runner-worker': 'src/sdk/runner-worker.ts',
    'housekeeper-worker': 'src/sdk/housekeeper-worker.ts',
    'translator-worker': 'src/sdk/translator-worker.ts',
    'thread-main': 'src/host/node/thread-main.ts',
  },
  outExtension: { '.js': '.cjs' },
  format: 'cjs',
  charset: 'ascii',
  define: { 'import.meta.url': 'moduleUrl' },
});
copyFileSync('node_modules/commander/LICENSE', `${OUT}/commander.LICENSE`);
chmodSync(`${OUT}/main.js`, 0o755);
