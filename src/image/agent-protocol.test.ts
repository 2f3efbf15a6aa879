import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FaultlineError } from '../base/error.ts';
import {
  encodeExec,
  encodeFrame,
  type Frame,
  FrameDecoder,
  FrameType,
  PAYLOAD_MAX,
} from './agent-protocol.ts';

function decode(bytes: Uint8Array, pieces: readonly number[] = [bytes.length]): Frame[] {
  const decoder = new FrameDecoder();
  const frames: Frame[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const n = pieces[i % pieces.length]!;
    decoder.push(bytes.subarray(at, at + n), frame => frames.push(frame));
    at += n;
  }
  return frames;
}

describe('frames', () => {
  test('come back whole by whatever pieces they arrive in', () => {
    const frame = fc.record({
      type: fc.integer({ min: 0, max: 255 }),
      id: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      payload: fc.uint8Array({ maxLength: 300 }),
    });
    const pieces = fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1 });
    fc.assert(
      fc.property(fc.array(frame), pieces, (frames, sizes) => {
        const bytes = Buffer.concat(frames.map(f => encodeFrame(f.type, f.id, f.payload)));
        expect(decode(bytes, sizes)).toEqual(frames);
      }),
      { seed: 11, numRuns: 150 },
    );
  });

  test('of the greatest length pass, longer ones do not', () => {
    expect(decode(encodeFrame(4, 1, new Uint8Array(PAYLOAD_MAX)))[0]!.payload).toHaveLength(PAYLOAD_MAX);
    expect(() => encodeFrame(4, 1, new Uint8Array(PAYLOAD_MAX + 1))).toThrow(FaultlineError);
    expect(() => decode(Uint8Array.of(0xff, 0xff, 4, 0, 0, 0, 0, 0))).toThrow('what is no frame');
  });
});

describe('a request', () => {
  test('longer than a frame is split, and is the same bytes', () => {
    const frames = encodeExec(7, { argv: ['echo', 'x'.repeat(9000)], env: ['A=1'], cwd: '/tmp' }).flatMap(f =>
      decode(f),
    );
    expect(frames.map(f => f.type)).toEqual([FrameType.Args, FrameType.Args, FrameType.Exec]);
    expect(new Set(frames.map(f => f.id))).toEqual(new Set([7]));
    const text = Buffer.concat(frames.map(f => f.payload));
    expect([...text.subarray(0, 10)]).toEqual([0, 0, 0, 0, 0, 0, 2, 0, 1, 0]);
    expect(text.subarray(10).toString()).toBe(`/tmp\0echo\0${'x'.repeat(9000)}\0A=1\0`);
  });

  test('that the agent could not take is refused here', () => {
    const usage = expect.objectContaining({ code: 'E_USAGE' });
    expect(() => encodeExec(1, { argv: [], env: [] })).toThrow(usage);
    expect(() => encodeExec(1, { argv: ['a\0b'], env: [] })).toThrow(usage);
    expect(() => encodeExec(1, { argv: ['a', 'x'.repeat(140_000)], env: [] })).toThrow(usage);
    expect(() => encodeExec(1, { argv: Array(5000).fill('a'), env: [] })).toThrow(usage);
  });
});
