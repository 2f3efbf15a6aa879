import { join } from 'node:path';
import { runScript } from './script-cache.ts';

// What a worker of the bundle begins with: the script beside this one that its first argument names.
runScript(join(__dirname, process.argv[2]!));
