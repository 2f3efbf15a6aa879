import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';

const TYPES: Record<string, string> = { '.js': 'text/javascript', '.html': 'text/html' };
const PAGE = `<!doctype html><meta charset="utf-8"><title>Faultline</title>
<pre id="screen"></pre><p id="status"></p>
<script type="module">
  import { startPage } from '/dist/web/index.js';
  const at = id => document.getElementById(id);
  startPage(at('screen'), at('status'), new URLSearchParams(location.search));
</script>`;

export type Site = { url: string; close(): Promise<void> };

/**
 * Serves the built package under /dist and an image's files under /image, on loopback. `isolated`: with the two
 * headers that let a page share memory between threads.
 */
export async function serve(dist: string, image: string, isolated: boolean): Promise<Site> {
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? '/', 'http://x').pathname));
    if (isolated) {
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
      response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
    }
    if (path === '/') {
      response.setHeader('Content-Type', 'text/html');
      response.end(PAGE);
      return;
    }
    const file = fileFor(path, dist, image);
    if (file === undefined) {
      response.writeHead(404).end();
      return;
    }
    response.setHeader('Content-Type', TYPES[extname(file)] ?? 'application/octet-stream');
    createReadStream(file).pipe(response);
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/`, close: () => closed(server) };
}

function fileFor(path: string, dist: string, image: string): string | undefined {
  const [, root, ...rest] = path.split('/');
  const base = root === 'dist' ? dist : root === 'image' ? image : undefined;
  if (base === undefined) return undefined;
  const file = join(base, ...rest);
  return existsSync(file) && statSync(file).isFile() ? file : undefined;
}

const closed = (server: Server): Promise<void> =>
  new Promise(resolve => {
    server.closeAllConnections();
    server.close(() => resolve());
  });
