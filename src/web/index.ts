import type { FromGuest, ToGuest } from './messages.ts';

// The page: a console, and a line of counters under it. Everything that takes time is in the worker.

const ESCAPES = new RegExp(`${String.fromCharCode(27)}\\[[0-9;?]*[A-Za-z]`, 'g');
const decoder = new TextDecoder();

/** Boots what the page's address asks for and shows its console in `screen`. */
export function startPage(screen: HTMLElement, status: HTMLElement, query: URLSearchParams): Worker {
  const worker = new Worker(new URL('./guest-worker.js', import.meta.url), { type: 'module' });
  const send = (message: ToGuest): void => worker.postMessage(message);
  worker.onmessage = ({ data }: MessageEvent<FromGuest>) => show(data, screen, status);
  worker.onerror = event => void (status.textContent = `failed: ${event.message}`);
  send({
    kind: 'boot',
    kernelUrl: absolute(query.get('kernel') ?? 'kernel'),
    initrdUrl: absolute(query.get('initrd') ?? 'initrd'),
    commandLine: query.get('append') ?? 'console=ttyS0 quiet',
    memoryBytes: mib(query.get('memory') ?? '128'),
    ...(query.has('limit') ? { memoryLimitBytes: mib(query.get('limit')!) } : {}),
    ...(query.has('zram') ? { zramBytes: mib(query.get('zram')!) } : {}),
  });
  document.addEventListener('keydown', event => {
    const bytes = keyBytes(event);
    if (bytes === undefined) return;
    event.preventDefault();
    send({ kind: 'type', bytes });
  });
  return worker;
}

function show(message: FromGuest, screen: HTMLElement, status: HTMLElement): void {
  switch (message.kind) {
    case 'booting':
      status.textContent = message.shared ? 'booting, memory shared' : 'booting, memory private';
      break;
    case 'console':
      screen.append(decoder.decode(message.bytes, { stream: true }).replace(ESCAPES, ''));
      break;
    case 'counters': {
      const { pgfault, pswpin, pswpout } = message.counters;
      status.textContent = `${pgfault} faults, ${pswpin} swapped in, ${pswpout} out`;
      break;
    }
    case 'ended':
      status.textContent = `ended: ${message.reason}`;
      break;
    case 'failed':
      status.textContent = `failed: ${message.message}`;
      break;
    default:
      message satisfies never;
  }
}

const absolute = (url: string): string => new URL(url, location.href).href;
const mib = (text: string): number => Number(text) * 2 ** 20;
const encoder = new TextEncoder();

function keyBytes(event: KeyboardEvent): Uint8Array | undefined {
  if (event.ctrlKey && event.key.length === 1)
    return Uint8Array.of(event.key.toUpperCase().charCodeAt(0) & 31);
  if (event.metaKey || event.altKey) return undefined;
  if (event.key === 'Enter') return encoder.encode('\r');
  if (event.key === 'Backspace') return Uint8Array.of(127);
  if (event.key === 'Tab') return Uint8Array.of(9);
  return event.key.length === 1 ? encoder.encode(event.key) : undefined;
}
