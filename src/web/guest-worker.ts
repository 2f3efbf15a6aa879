import type { InlineDriver } from '../sdk/inline-driver.ts';
import { startFromBytes } from '../sdk/launch-bytes.ts';
import type { FromGuest, ToGuest } from './messages.ts';

// A guest in a worker of a page. With isolation headers its memory is shared, so that more threads can attach;
// without them it is this worker's own, and everything else is the same.

type Scope = {
  postMessage(message: FromGuest): void;
  onmessage: ((event: { data: ToGuest }) => void) | null;
  crossOriginIsolated: boolean;
};
const scope = globalThis as unknown as Scope;
const post = (message: FromGuest): void => scope.postMessage(message);
const COUNTERS_MS = 250;

let driver: InlineDriver | undefined;

async function bytesOf(url: string): Promise<Uint8Array> {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function boot(o: Extract<ToGuest, { kind: 'boot' }>): Promise<void> {
  const shared = scope.crossOriginIsolated;
  post({ kind: 'booting', shared });
  const [kernel, initrd] = await Promise.all([bytesOf(o.kernelUrl), bytesOf(o.initrdUrl)]);
  const { driver: guest, memory } = startFromBytes(
    { ...o, kernel, initrd },
    { console: bytes => post({ kind: 'console', bytes }), agent() {} },
    shared,
  );
  driver = guest;
  const timer = setInterval(() => post({ kind: 'counters', counters: memory.counters() }), COUNTERS_MS);
  const end = await guest.ended;
  clearInterval(timer);
  post({ kind: 'ended', reason: end.detail ?? end.kind });
}

scope.onmessage = ({ data }) => {
  if (data.kind === 'boot') boot(data).catch(e => post({ kind: 'failed', message: String(e) }));
  else if (data.kind === 'type') driver?.send('console', data.bytes);
  else driver?.stop();
};
