import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';

// Running guests can be looked at from another process: each offers its counters on a Unix socket named after
// the process, in a directory that only its owner can enter. One line of JSON a connection.

const directory = (): string => join(process.env.XDG_RUNTIME_DIR ?? tmpdir(), `faultline-${userInfo().uid}`);

/** Offers what `read` returns; returns how to stop. Never fails the caller: looking is a convenience. */
export function publishStats(read: () => unknown): () => void {
  const path = join(directory(), `${process.pid}.sock`);
  const server = createServer(socket => {
    socket.on('error', () => {});
    socket.end(look(read));
  });
  server.on('error', () => {});
  server.unref();
  try {
    mkdirSync(directory(), { recursive: true, mode: 0o700 });
    rmSync(path, { force: true });
    server.listen(path);
  } catch {
    return () => {};
  }
  return () => {
    server.close();
    rmSync(path, { force: true });
  };
}

/** The answer to one connection: empty when there are no figures, as while a guest goes. */
function look(read: () => unknown): string {
  try {
    return `${JSON.stringify(read())}\n`;
  } catch {
    return '';
  }
}

/** Process ids of guests that offer their counters; stale sockets are passed over by `readStats`. */
export function publishedGuests(): number[] {
  try {
    return readdirSync(directory())
      .filter(name => /^\d+\.sock$/.test(name))
      .map(name => Number.parseInt(name, 10));
  } catch {
    return [];
  }
}

/** One look at a guest's counters; undefined if it is gone. */
export function readStats(pid: number): Promise<unknown> {
  return new Promise(resolve => {
    const path = join(directory(), `${pid}.sock`);
    const chunks: Buffer[] = [];
    const socket = connect(path);
    socket.on('data', chunk => chunks.push(chunk));
    socket.on('error', () => {
      rmSync(path, { force: true });
      resolve(undefined);
    });
    socket.on('end', () => resolve(parse(Buffer.concat(chunks).toString())));
  });
}

/** A guest that ends in the middle of its answer is gone. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
