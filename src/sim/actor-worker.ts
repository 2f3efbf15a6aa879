import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { Arena } from '../sync/arena.ts';
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
  actor: string;
  memory: WebAssembly.Memory;
  setup: unknown;
};

const { buffer, self } = workerData as { buffer: SharedArrayBuffer; self: number };
const control = new Control(buffer);
const port = parentPort!;

/** What it plays at present. */
let playing: { load: Load; test: AnyCase; arena: Arena } | undefined;

function play(): void {
  const { load, test, arena } = playing!;
  const turnstile = new Turnstile(control, self, arena.words);
  let unhook = (): void => {};
  let failure: string | undefined;
  try {
    turnstile.begin();
    const sync = new Sync(arena, { waiter: turnstile, lockdep: true });
    const core = test.core(sync, { profile: load.profile, breaks: load.breaks });
    if (test.everyAtomic) unhook = hookAtomics(arena.memory.buffer, turnstile.point);
    test.actors[load.actor]!(core, load.setup);
  } catch (error) {
    if (!(error instanceof ScheduleEnd)) failure = error instanceof Error ? error.message : String(error);
  } finally {
    unhook();
  }
  turnstile.finish(failure);
}

async function serve(): Promise<void> {
  port.postMessage('ready');
  for (;;) {
    control.await(self);
    const command = control.words[Ctl.command];
    if (command === Command.Exit) return;
    if (command === Command.Run) play();
    else {
      const load = receiveMessageOnPort(port)!.message as Load;
      playing = { load, test: await findCase(load.name), arena: Arena.attach(load.memory) };
      port.postMessage('loaded');
    }
  }
}

await serve();
port.close();
