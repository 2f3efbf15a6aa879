import { afterEach, expect, test, vi } from 'vitest';
import type { AgentClient } from './agent-client.ts';
import { Commands } from './commands.ts';

afterEach(() => {
  vi.useRealTimers();
});

/** An agent whose only command ends when it is killed, if it listens. */
function agent(listens: boolean) {
  const signals: number[] = [];
  let end!: (exit: { code: number; signal: number }) => void;
  const exit = new Promise<{ code: number; signal: number }>(resolve => {
    end = resolve;
  });
  const process = {
    exit,
    write: () => Promise.resolve(),
    closeInput() {},
    kill(signal: number) {
      signals.push(signal);
      if (listens) end({ code: 128 + signal, signal });
    },
  };
  return { signals, commands: new Commands({ exec: () => process } as unknown as AgentClient) };
}

test('a command that takes too long is killed, and its result says so', async () => {
  const { commands, signals } = agent(true);
  expect(await commands.run('sleep 100', { timeoutMs: 1 })).toMatchObject({ exitCode: 137, signal: 9 });
  expect(signals).toEqual([9]);
});

test('a guest that does not even kill a command is E_TIMEOUT, and nobody waits for ever', async () => {
  vi.useFakeTimers();
  const { commands, signals } = agent(false);
  const result = expect(commands.run('sleep 100', { timeoutMs: 50 })).rejects.toMatchObject({
    code: 'E_TIMEOUT',
  });
  await vi.advanceTimersByTimeAsync(50);
  expect(signals).toEqual([9]);
  await vi.advanceTimersByTimeAsync(10_000);
  await result;
});
