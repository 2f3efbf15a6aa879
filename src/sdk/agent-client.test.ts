import { beforeEach, describe, expect, test } from 'vitest';
import { FaultlineError } from '../base/error.ts';
import { encodeFrame, encodeNumbers, type Frame, FrameDecoder, FrameType } from '../image/agent-protocol.ts';
import { AgentClient } from './agent-client.ts';

let client: AgentClient;
let sent: Frame[];
beforeEach(() => {
  const decoder = new FrameDecoder();
  sent = [];
  client = new AgentClient(bytes => decoder.push(bytes, frame => sent.push(frame)));
});

const ready = (window = 10, version = 1) =>
  client.receive(encodeNumbers(FrameType.Ready, 0, 4, version, 4096, window));
const drawn = () =>
  sent.map(
    f => `${Object.entries(FrameType).find(([, type]) => type === f.type)![0]} ${f.id} ${f.payload.length}`,
  );

describe('the client of the agent', () => {
  test('is ready when the guest says so, and not for another version', async () => {
    ready();
    await client.ready;
    const other = new AgentClient(() => {});
    other.receive(encodeNumbers(FrameType.Ready, 0, 4, 99, 4096, 10));
    await expect(other.ready).rejects.toMatchObject({ code: 'E_AGENT' });
  });

  test('sends no more input than the guest has room for, and says when all is sent', async () => {
    ready(10);
    const process = client.exec({ argv: ['cat'], env: [] });
    sent.length = 0;
    let written = false;
    const writing = process.write(new Uint8Array(25)).then(() => (written = true));
    process.closeInput();
    expect(drawn()).toEqual(['Stdin 1 10']);
    client.receive(encodeNumbers(FrameType.Window, 1, 4, 12));
    await Promise.resolve();
    expect(written).toBe(false);
    client.receive(encodeNumbers(FrameType.Window, 1, 4, 10));
    client.receive(encodeNumbers(FrameType.Window, 1, 4, 3));
    await writing;
    expect(drawn()).toEqual(['Stdin 1 10', 'Stdin 1 12', 'Stdin 1 3', 'StdinEof 1 0']);
  });

  test("keeps the input as it was when written, a Buffer's too", async () => {
    ready(2);
    const process = client.exec({ argv: ['cat'], env: [] });
    const bytes = Buffer.from('abcd');
    const writing = process.write(bytes);
    bytes.fill('x');
    client.receive(encodeNumbers(FrameType.Window, 1, 4, 2));
    await writing;
    expect(Buffer.concat(sent.slice(1).map(f => f.payload)).toString()).toBe('abcd');
  });

  test('carries output to its command, and ends with the code', async () => {
    ready();
    const heard: string[] = [];
    const text = (bytes: Uint8Array) => heard.push(Buffer.from(bytes).toString());
    const first = client.exec({ argv: ['a'], env: [] }, { stdout: text });
    const second = client.exec({ argv: ['b'], env: [] }, { stderr: text });
    client.receive(encodeNumbers(FrameType.Started, 2, 4, 77));
    client.receive(encodeFrame(FrameType.Stderr, 2, Buffer.from('two')));
    client.receive(encodeFrame(FrameType.Stdout, 1, Buffer.from('one')));
    client.receive(encodeNumbers(FrameType.Exit, 2, 4, 137, 9));
    client.receive(encodeNumbers(FrameType.Exit, 1, 4, 0, 0));
    expect(heard).toEqual(['two', 'one']);
    expect(await second.started).toBe(77);
    expect([await first.exit, await second.exit]).toEqual([
      { code: 0, signal: 0 },
      { code: 137, signal: 9 },
    ]);
  });

  test('a command that did not start has its reason and 127', async () => {
    ready();
    const process = client.exec({ argv: ['nope'], env: [] });
    client.receive(encodeFrame(FrameType.Error, 1, Buffer.from('\x02\0\0\0nope')));
    client.receive(encodeNumbers(FrameType.Exit, 1, 4, 127, 0));
    await expect(process.started).rejects.toThrow('the command did not start: nope');
    expect([await process.exit, process.failure]).toEqual([
      { code: 127, signal: 0 },
      { errno: 2, what: 'nope' },
    ]);
  });

  test('a guest that leaves, or talks nonsense, fails every command and starts no other', async () => {
    ready();
    const process = client.exec({ argv: ['a'], env: [] });
    const writing = process.write(new Uint8Array(100));
    client.receive(new Uint8Array(8).fill(0xff));
    await expect(process.exit).rejects.toMatchObject({ code: 'E_AGENT' });
    await writing;
    expect(() => client.exec({ argv: ['b'], env: [] })).toThrow(FaultlineError);
    client.receive(encodeFrame(FrameType.Stdout, 1)); // of no effect
  });
});
