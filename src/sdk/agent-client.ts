import { FaultlineError } from '../base/error.ts';
import {
  type ExecRequest,
  encodeExec,
  encodeFrame,
  encodeNumbers,
  type Frame,
  FrameDecoder,
  FrameType,
  numberAt,
  PAYLOAD_MAX,
  PROTOCOL_VERSION,
} from '../image/agent-protocol.ts';

export type AgentExit = {
  /** 128 + signal if a signal ended it; 127 not found, 126 not executable. */
  readonly code: number;
  /** 0 if it left by itself. */
  readonly signal: number;
};

export type AgentOutputs = {
  /** The bytes are the callee's to keep. A terminal's output all comes here. */
  readonly stdout?: (bytes: Uint8Array) => void;
  readonly stderr?: (bytes: Uint8Array) => void;
};

/** What a command gets when nobody says otherwise. */
export const DEFAULT_ENVIRONMENT: Readonly<Record<string, string>> = {
  HOME: '/root',
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  TERM: 'linux',
  LANG: 'C.UTF-8',
};

/**
 * Runs commands in a guest by its agent. Knows only bytes: `send` writes to the channel, and the owner
 * passes what comes from it to `receive`.
 */
export class AgentClient {
  /** Resolves when the guest serves; nothing may be sent before. Rejects when the channel is closed. */
  readonly ready: Promise<void>;
  readonly #send: (bytes: Uint8Array) => void;
  readonly #decoder = new FrameDecoder();
  readonly #processes = new Map<number, AgentProcess>();
  #settleReady!: { resolve: () => void; reject: (error: unknown) => void };
  #window = 0;
  #nextId = 1;
  #closed: FaultlineError | undefined;

  constructor(send: (bytes: Uint8Array) => void) {
    this.#send = send;
    this.ready = new Promise((resolve, reject) => {
      this.#settleReady = { resolve, reject };
    });
    // Whoever waits for it hears of it; nobody waiting is no crash.
    this.ready.catch(() => {});
  }

  /** Bytes from the guest. What is no frame closes the client: E_AGENT to all that wait. */
  receive(bytes: Uint8Array): void {
    if (this.#closed !== undefined) return;
    try {
      this.#decoder.push(bytes, frame => this.#take(frame));
    } catch (error) {
      this.close(error instanceof FaultlineError ? error : new FaultlineError('E_AGENT', String(error)));
    }
  }

  /** Starts a command. Call after `ready`. Throws E_USAGE for one that can't be sent. */
  exec(request: ExecRequest, outputs: AgentOutputs = {}): AgentProcess {
    if (this.#closed !== undefined) throw this.#closed;
    const id = this.#nextId++;
    const frames = encodeExec(id, request);
    const process = new AgentProcess(id, this.#window, bytes => this.#write(bytes), outputs);
    this.#processes.set(id, process);
    for (const frame of frames) this.#send(frame);
    return process;
  }

  /** Asks the guest to sync and power off. */
  powerOff(): void {
    this.#write(encodeFrame(FrameType.PowerOff, 0));
  }

  /** The guest is gone: every command still running fails with `reason`. */
  close(reason: FaultlineError): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    this.#settleReady.reject(reason);
    for (const process of this.#processes.values()) process.fail(reason);
    this.#processes.clear();
  }

  #write(bytes: Uint8Array): void {
    if (this.#closed === undefined) this.#send(bytes);
  }

  #take(frame: Frame): void {
    if (frame.type === FrameType.Ready) {
      this.#greet(frame);
      return;
    }
    const process = this.#processes.get(frame.id);
    if (process === undefined) return;
    process.take(frame);
    if (frame.type === FrameType.Exit) this.#processes.delete(frame.id);
  }

  #greet(frame: Frame): void {
    const version = numberAt(frame, 0);
    if (version !== PROTOCOL_VERSION) {
      throw new FaultlineError(
        'E_AGENT',
        `the guest agent speaks version ${version}, not ${PROTOCOL_VERSION}`,
        {
          hint: 'build the image again with this version: faultline image build --force',
        },
      );
    }
    this.#window = numberAt(frame, 2);
    this.#settleReady.resolve();
  }
}

/** One command in the guest. */
export class AgentProcess {
  readonly id: number;
  /** Its pid in the guest. Rejects with E_AGENT if it never started; `exit` then has 126 or 127. */
  readonly started: Promise<number>;
  /** Resolves when it has left and all it wrote has come. */
  readonly exit: Promise<AgentExit>;
  /** Why it did not start, in the guest's words; undefined if it did. */
  failure: { readonly errno: number; readonly what: string } | undefined;
  readonly #send: (bytes: Uint8Array) => void;
  readonly #outputs: AgentOutputs;
  /** Input not yet sent, as the guest has granted no room. */
  readonly #input: Uint8Array[] = [];
  #window: number;
  #ended = false;
  #inputEnded = false;
  #eofSent = false;
  #onDrain: (() => void)[] = [];
  #settle!: {
    started: (pid: number) => void;
    notStarted: (error: unknown) => void;
    exit: (exit: AgentExit) => void;
    failed: (error: unknown) => void;
  };

  /** By `AgentClient.exec`. */
  constructor(id: number, window: number, send: (bytes: Uint8Array) => void, outputs: AgentOutputs) {
    this.id = id;
    this.#window = window;
    this.#send = send;
    this.#outputs = outputs;
    let started!: (pid: number) => void;
    let notStarted!: (error: unknown) => void;
    this.started = new Promise((resolve, reject) => {
      started = resolve;
      notStarted = reject;
    });
    this.exit = new Promise((exit, failed) => {
      this.#settle = { started, notStarted, exit, failed };
    });
    this.started.catch(() => {});
    this.exit.catch(() => {});
  }

  /** Sends input. Resolves when all of it has been given to the guest; at once if the command has left. */
  write(bytes: Uint8Array): Promise<void> {
    if (this.#ended || this.#inputEnded || bytes.length === 0) return Promise.resolve();
    this.#input.push(new Uint8Array(bytes)); // not slice(): a Buffer's is a view
    this.#pump();
    return this.#input.length === 0 ? Promise.resolve() : new Promise(resolve => this.#onDrain.push(resolve));
  }

  /** No input follows; what was written still arrives first. */
  closeInput(): void {
    if (this.#inputEnded) return;
    this.#inputEnded = true;
    this.#pump();
  }

  /** Sends a signal to the command's process group. */
  kill(signal = 15): void {
    if (!this.#ended) this.#send(encodeNumbers(FrameType.Kill, this.id, 4, signal));
  }

  resize(rows: number, columns: number): void {
    if (!this.#ended) this.#send(encodeNumbers(FrameType.Resize, this.id, 2, rows, columns));
  }

  /** By `AgentClient`: an event of this command. */
  take(frame: Frame): void {
    const { type } = frame;
    if (type === FrameType.Started) this.#settle.started(numberAt(frame, 0));
    else if (type === FrameType.Stdout) this.#outputs.stdout?.(frame.payload);
    else if (type === FrameType.Stderr) this.#outputs.stderr?.(frame.payload);
    else if (type === FrameType.Error) this.failure = failureOf(frame);
    else if (type === FrameType.Exit) this.#left({ code: numberAt(frame, 0), signal: numberAt(frame, 1) });
    else if (type === FrameType.Window) {
      this.#window += numberAt(frame, 0);
      this.#pump();
    }
  }

  #left(exit: AgentExit): void {
    this.#end();
    // Of no effect if it had started.
    const what = this.failure?.what ?? 'no reason given';
    this.#settle.notStarted(new FaultlineError('E_AGENT', `the command did not start: ${what}`));
    this.#settle.exit(exit);
  }

  /** By `AgentClient`: the guest is gone. */
  fail(reason: FaultlineError): void {
    this.#end();
    this.#settle.notStarted(reason);
    this.#settle.failed(reason);
  }

  #pump(): void {
    while (this.#input.length > 0 && this.#window > 0) {
      const head = this.#input[0]!;
      const n = Math.min(head.length, this.#window, PAYLOAD_MAX);
      this.#send(encodeFrame(FrameType.Stdin, this.id, head.subarray(0, n)));
      this.#window -= n;
      if (n === head.length) this.#input.shift();
      else this.#input[0] = head.subarray(n);
    }
    if (this.#input.length > 0) return;
    if (this.#inputEnded && !this.#eofSent && !this.#ended) {
      this.#eofSent = true;
      this.#send(encodeFrame(FrameType.StdinEof, this.id));
    }
    this.#drained();
  }

  #end(): void {
    this.#ended = true;
    this.#input.length = 0;
    this.#drained();
  }

  #drained(): void {
    const waiting = this.#onDrain;
    this.#onDrain = [];
    for (const resolve of waiting) resolve();
  }
}

const failureOf = (frame: Frame): { errno: number; what: string } => ({
  errno: numberAt(frame, 0),
  what: new TextDecoder().decode(frame.payload.subarray(4)),
});
