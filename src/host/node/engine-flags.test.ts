import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { F64, ModuleBuilder } from '../../wasm/encoder.ts';
import { engineFlags, setEngineFlags } from './engine-flags.ts';

const relaxedModule = (): Uint8Array<ArrayBuffer> => {
  const m = new ModuleBuilder();
  m.define('square', { params: [F64], results: [F64] }, c => {
    for (let i = 0; i < 3; i++) c.get(0).op('f64x2_splat');
    c.op('f64x2_relaxed_madd').lane('f64x2_extract_lane', 0);
  });
  return m.finish();
};

test('after the flags are set, this thread and workers compile relaxed vectors', async () => {
  setEngineFlags();
  const module = relaxedModule();
  expect(WebAssembly.validate(module)).toBe(true);
  const source = `const { parentPort, workerData } = require('node:worker_threads');
    parentPort.postMessage(WebAssembly.validate(workerData));`;
  const worker = new Worker(source, { eval: true, workerData: module });
  const [isValid] = await once(worker, 'message');
  expect(isValid).toBe(true);
  await worker.terminate();
});

test('an engine that has the features is told nothing', () => {
  expect(engineFlags('11.3.244.8-node.38')).toHaveLength(2);
  expect(engineFlags('12.4.254.21-node.33')).toEqual(['--experimental-wasm-branch-hinting']);
  expect(engineFlags('13.6.233.17-node.37')).toEqual(['--experimental-wasm-branch-hinting']);
  expect(engineFlags('14.6.202.26-node.10')).toEqual([]);
});
