import { Worker } from 'node:worker_threads';

/**
 * Starts a TypeScript module of this folder on a thread. Node 20 can't load one by `execArgv`, so a line of
 * plain JavaScript registers the loader first.
 */
export function spawnModule(url: URL, workerData: unknown): Worker {
  const source = `
    import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(url.href)}); })
      .catch(error => { queueMicrotask(() => { throw error; }); });`;
  return new Worker(source, { eval: true, workerData, execArgv: [] });
}

/** The next message of a worker; rejects when it dies instead. */
export function nextMessage(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      worker.off('message', onMessage);
      worker.off('error', onError);
      worker.off('exit', onExit);
      act();
    };
    const onMessage = (value: unknown): void => settle(() => resolve(value));
    const onError = (error: unknown): void => settle(() => reject(error));
    const onExit = (code: number): void =>
      settle(() => reject(new Error(`a thread ended with code ${code}`)));
    worker.once('message', onMessage);
    worker.once('error', onError);
    worker.once('exit', onExit);
  });
}
