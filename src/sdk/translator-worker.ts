import { workerData } from 'node:worker_threads';
import { keepCompiled } from '../host/node/keep-compiled.ts';
import { TranslationFile } from '../host/node/translation-file.ts';
import { monotonicMs } from '../host/world.ts';
import { Host } from '../machine/host.ts';
import type { HostWorkerData } from './host-worker.ts';
import { nodePorts } from './node-ports.ts';

// Makes regions of what is hot, so that those who run into it need not.

const { share, control } = workerData as HostWorkerData;
/** What other processes have translated. */
const file = TranslationFile.of(import.meta.url);
const host = Host.attach(share, {
  ...nodePorts,
  ...(file && { keepTranslation: bytes => file.append(bytes) }),
});

/** By then most of the translator was needed once. */
const KEEP_MS = 1000;
const since = monotonicMs();

try {
  for (const translation of file?.read() ?? []) host.cpu.translator.know(translation);
  host.translate(control, () => {
    if (monotonicMs() - since > KEEP_MS) keepCompiled();
  });
} finally {
  host.mm.close();
}
