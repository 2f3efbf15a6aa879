#!/usr/bin/env node
import { fileURLToPath } from 'node:url';
import { runScript } from '../host/node/script-cache.ts';
import { startWorker } from '../sdk/standby.ts';

// Before all else: the machine's worker loads while this thread loads the program.
const worker = process.argv[2] === 'run' ? startWorker() : undefined;
runScript(fileURLToPath(new URL('./program.cjs', import.meta.url)), worker);
