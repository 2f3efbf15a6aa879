import { FaultlineError } from '../base/error.ts';

// Frames between host and guest agent; docs/formats/agent.md is the description, guest/agent the other end.

export const PROTOCOL_VERSION = 1;
export const FRAME_MAX = 4096;
export const HEADER_BYTES = 8;
export const PAYLOAD_MAX = FRAME_MAX - HEADER_BYTES;
/** Bytes of one EXEC request, all its frames together. */
export const REQUEST_MAX = 131072;

/** Requests are the host's, events (bit 7) the agent's. */
export const FrameType = {
  Hello: 1,
  Args: 2,
  Exec: 3,
  Stdin: 4,
  StdinEof: 5,
  Kill: 6,
  Resize: 7,
  PowerOff: 8,
  Ready: 0x81,
  Started: 0x82,
  Stdout: 0x83,
  Stderr: 0x84,
  Exit: 0x85,
  Error: 0x86,
  Window: 0x87,
} as const;

export type Frame = { readonly type: number; readonly id: number; readonly payload: Uint8Array };

/** One frame as bytes. `payload` is at most PAYLOAD_MAX. */
export function encodeFrame(type: number, id: number, payload: Uint8Array = EMPTY): Uint8Array {
  if (payload.length > PAYLOAD_MAX)
    throw new FaultlineError('E_INTERNAL', 'a frame for the agent is too long');
  const bytes = new Uint8Array(HEADER_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, payload.length, true);
  view.setUint8(2, type);
  view.setUint32(4, id, true);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

const EMPTY = new Uint8Array(0);

/** Puts frames together from bytes in pieces of any size. */
export class FrameDecoder {
  readonly #buffer = new Uint8Array(FRAME_MAX);
  #have = 0;

  /** Calls `take` for each whole frame; the payload is a copy. Throws E_AGENT for what is no frame. */
  push(bytes: Uint8Array, take: (frame: Frame) => void): void {
    for (let at = 0; at < bytes.length; ) {
      const need = this.#have < HEADER_BYTES ? HEADER_BYTES : this.#frameBytes();
      const n = Math.min(need - this.#have, bytes.length - at);
      this.#buffer.set(bytes.subarray(at, at + n), this.#have);
      this.#have += n;
      at += n;
      if (this.#have >= HEADER_BYTES && this.#have === this.#frameBytes()) this.#emit(take);
    }
  }

  #frameBytes(): number {
    const length = this.#buffer[0]! | (this.#buffer[1]! << 8);
    if (length > PAYLOAD_MAX || this.#buffer[3] !== 0) {
      throw new FaultlineError('E_AGENT', 'the guest agent sends what is no frame', {
        hint: 'an image built by this version: faultline image build --force',
      });
    }
    return HEADER_BYTES + length;
  }

  #emit(take: (frame: Frame) => void): void {
    const view = new DataView(this.#buffer.buffer);
    const frame = {
      type: this.#buffer[2]!,
      id: view.getUint32(4, true),
      payload: this.#buffer.slice(HEADER_BYTES, this.#have),
    };
    this.#have = 0;
    take(frame);
  }
}

export type ExecRequest = {
  /** At least the program: a path, or a name to be found by PATH. */
  readonly argv: readonly string[];
  /** The whole environment: `NAME=value`. */
  readonly env: readonly string[];
  /** Default: the agent's own, `/`. */
  readonly cwd?: string;
  /** A terminal of that size instead of pipes. */
  readonly tty?: { readonly rows: number; readonly columns: number };
};

/** The frames of an EXEC: as many ARGS as its strings need, then EXEC. Throws E_USAGE. */
export function encodeExec(id: number, request: ExecRequest): Uint8Array[] {
  const strings = [request.cwd ?? '', ...request.argv, ...request.env];
  if (request.argv.length === 0) throw new FaultlineError('E_USAGE', 'a command needs a program');
  if (strings.some(s => s.includes('\0')))
    throw new FaultlineError('E_USAGE', 'a NUL in a command or variable');
  const text = new TextEncoder().encode(strings.map(s => `${s}\0`).join(''));
  const bytes = new Uint8Array(10 + text.length);
  if (bytes.length > REQUEST_MAX || request.argv.length + request.env.length > 4096) {
    throw new FaultlineError('E_USAGE', `a command with its variables takes at most ${REQUEST_MAX} bytes`);
  }
  const view = new DataView(bytes.buffer);
  view.setUint8(0, request.tty === undefined ? 0 : 1);
  view.setUint16(2, request.tty?.rows ?? 0, true);
  view.setUint16(4, request.tty?.columns ?? 0, true);
  view.setUint16(6, request.argv.length, true);
  view.setUint16(8, request.env.length, true);
  bytes.set(text, 10);
  const frames: Uint8Array[] = [];
  for (let at = 0; ; at += PAYLOAD_MAX) {
    const last = at + PAYLOAD_MAX >= bytes.length;
    frames.push(
      encodeFrame(last ? FrameType.Exec : FrameType.Args, id, bytes.subarray(at, at + PAYLOAD_MAX)),
    );
    if (last) return frames;
  }
}

/** A frame that holds the numbers as u32s, or as u16s for RESIZE. */
export function encodeNumbers(type: number, id: number, bytesEach: 2 | 4, ...numbers: number[]): Uint8Array {
  const payload = new Uint8Array(bytesEach * numbers.length);
  const view = new DataView(payload.buffer);
  numbers.forEach((n, i) => {
    if (bytesEach === 2) view.setUint16(i * 2, n, true);
    else view.setUint32(i * 4, n, true);
  });
  return encodeFrame(type, id, payload);
}

/** The u32 at `index` of a payload. Throws E_AGENT if the payload is shorter. */
export function numberAt(frame: Frame, index: number): number {
  const { payload } = frame;
  if (payload.length < index * 4 + 4)
    throw new FaultlineError('E_AGENT', 'the guest agent sends a short frame');
  return new DataView(payload.buffer, payload.byteOffset, payload.length).getUint32(index * 4, true);
}
