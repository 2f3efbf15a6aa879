import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { Arena } from '../sync/arena.ts';
import { LOCK_ORDER } from '../sync/lockdep.ts';
import { Sync } from '../sync/sync.ts';
import { hookAtomics } from './atomics-hook.ts';
import type { AnyCase } from './case.ts';
import { findCase } from './cases/index.ts';
import { Command, Control, Ctl } from './control.ts';
import { ScheduleEnd, Turnstile } from './turnstile.ts';

// A thread of the explorer's pool. It plays one actor, of case after case.

export type Load = {
  name: string;
  profile: string;
  breaks: object;
  everyAtomic: boolean;
  actor: string;
  memory: WebAssembly.Memory;
  setup: unknown;
};

const { buffer, self } = workerData as { buffer: SharedArrayBuffer; self: number };
const control = new Control(buffer);
const port = parentPort!;

type Part = { load: Load; test: AnyCase; arena: Arena; turnstile: Turnstile; core: unknown };
/** What it plays at present. */
let part: Part | undefined;

function makeCore({ load, test, arena, turnstile }: Omit<Part, 'core'>): unknown {
  const sync = new Sync(arena, { waiter: turnstile, lockdep: true });
  turnstile.holdsLock = () => LOCK_ORDER.some(cls => sync.lockdep!.holds(cls));
  return test.core(sync, { profile: load.profile, breaks: load.breaks });
}

function play(part: Part): void {
  const { load, test, arena, turnstile } = part;
  let unhook = (): void => {};
  let failure: string | undefined;
  try {
    turnstile.begin();
    const core = part.core ?? makeCore(part);
    test.reset?.(core);
    if (load.everyAtomic) unhook = hookAtomics(arena.memory.buffer, turnstile.point);
    test.actors[load.actor]!(core, load.setup);
  } catch (error) {
    if (!(error instanceof ScheduleEnd)) failure = error instanceof Error ? error.message : String(error);
  } finally {
    unhook();
  }
  turnstile.finish(failure);
}

async function take(load: Load): Promise<Part> {
  const arena = Arena.attach(load.memory, 'built-in');
  const parts = { load, test: await findCase(load.name), arena };
  const idle = { ...parts, turnstile: new Turnstile(control, self, arena.words) };
  return { ...idle, core: idle.test.reset === undefined ? undefined : makeCore(idle) };
}

async function serve(): Promise<void> {
  port.postMessage('ready');
  for (;;) {
    control.await(self);
    const command = control.words[Ctl.command];
    if (command === Command.Exit) return;
    if (command === Command.Run) play(part!);
    else {
      part = await take(receiveMessageOnPort(port)!.message as Load);
      port.postMessage('loaded');
    }
  }
}

await serve();
port.close();
