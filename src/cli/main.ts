#!/usr/bin/env node
import { fileURLToPath } from 'node:url';
import { engineYields } from '../host/node/priority.ts';
import { runScript } from '../host/node/script-cache.ts';
import { startWorker } from '../sdk/standby.ts';

// Before there are other threads than the engine's.
if (process.argv[2] === 'run') engineYields();
// Before all else: the machine's worker loads while this thread loads the program.
const worker = process.argv[2] === 'run' ? startWorker() : undefined;
runScript(fileURLToPath(new URL('./program.cjs', import.meta.url)), worker);
