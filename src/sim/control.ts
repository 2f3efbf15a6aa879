// The words through which a controller and its actors, each on a thread of its own, take turns. Exactly one
// of them runs at any time, so plain accesses do, but for the words on which a thread sleeps.

export const MAX_ACTORS = 6;
export const MAX_STEPS = 16384;
const MAX_LABELS = 256;
const LABEL_WORDS = 8;
const TEXT_WORDS = 1024;

/** Word offsets. */
export const Ctl = {
  command: 0,
  /** Decisions taken in this schedule. */
  step: 1,
  planLength: 2,
  /** Stop code: why the schedule ended early. */
  stop: 3,
  maxSteps: 4,
  actors: 5,
  /** State of the random schedule; 0 takes the default choices. */
  random: 6,
  /** One switch in so many steps, on average, in a random schedule. */
  randomEvery: 7,
  labels: 8,
  /** Which actor the failure text is of. */
  failed: 9,
  textLength: 10,
  /** Grows with every sleep, so that a wake-up finds the first sleeper. */
  sleeps: 11,
  /** How often an actor may pass a label before it must let others run; 0 is never. */
  fair: 12,
  /** Per actor, then the controller: 1 when it has the turn. */
  go: 16,
  /** ACTOR_WORDS words per actor. */
  actor: 32,
  plan: 32 + MAX_ACTORS * 8,
} as const;
const TRACE = Ctl.plan + MAX_STEPS;
const LABELS = TRACE + MAX_STEPS;
const TEXT = LABELS + MAX_LABELS * LABEL_WORDS;
export const CONTROL_WORDS = TEXT + TEXT_WORDS;

/** Word offsets within an actor's record. */
export const Actor = { state: 0, waitAt: 1, order: 2, sleptAt: 3, ranAt: 4 } as const;
export const ACTOR_WORDS = 8;
export const ActorState = { Ready: 0, Asleep: 1, TimedAsleep: 2, Done: 3 } as const;

export const Command = { Load: 1, Run: 2, Exit: 3 } as const;
/** Why a schedule ended. */
export const Stop = {
  None: 0,
  Deadlock: 1,
  NoProgress: 2,
  Threw: 3,
  /** The plan named an actor that could not run. */
  Misfit: 4,
} as const;
export type Stop = (typeof Stop)[keyof typeof Stop];

/** Who has the turn when no actor has. */
export const CONTROLLER = MAX_ACTORS;

/** One decision, packed: chosen in bits 0..2, asker 3..5, enabled 6..11, free 12..17, label from 18 on. */
export type Decision = {
  /** Who got the turn. */
  chosen: number;
  /** Who had it. */
  asker: number;
  /** Bit mask of the actors that could have been chosen. */
  enabled: number;
  /**
   * Bit mask of those whose choice is no preemption: the asker if it can go on; else whoever is ready and
   * does not merely poll, and the one whose turn it is.
   */
  free: number;
  label: string;
};

/** The control block, as seen by one thread. */
export class Control {
  readonly words: Int32Array;
  readonly #ids = new Map<string, number>();
  readonly #names: string[] = [];

  constructor(buffer: SharedArrayBuffer) {
    this.words = new Int32Array(buffer);
  }

  static create(): Control {
    return new Control(new SharedArrayBuffer(CONTROL_WORDS * 4));
  }

  get buffer(): SharedArrayBuffer {
    return this.words.buffer as SharedArrayBuffer;
  }

  actorWord(actor: number, field: number): number {
    return Ctl.actor + actor * ACTOR_WORDS + field;
  }

  /** Gives the turn away. The giver then calls `await`, or has nothing more to do. */
  hand(to: number): void {
    Atomics.store(this.words, Ctl.go + to, 1);
    Atomics.notify(this.words, Ctl.go + to, 1);
  }

  /** Sleeps until it has the turn; false when `timeoutMs` passed first. */
  await(self: number, timeoutMs = Number.POSITIVE_INFINITY): boolean {
    const at = Ctl.go + self;
    for (let spins = 0; spins < 60; spins++) if (Atomics.load(this.words, at) === 1) break;
    while (Atomics.load(this.words, at) === 0) {
      if (Atomics.wait(this.words, at, 0, timeoutMs) === 'timed-out') return false;
    }
    Atomics.store(this.words, at, 0);
    return true;
  }

  record(step: number, d: Omit<Decision, 'label'>, label: number): void {
    this.words[TRACE + step] = d.chosen | (d.asker << 3) | (d.enabled << 6) | (d.free << 12) | (label << 18);
  }

  decision(step: number): Decision {
    const word = this.words[TRACE + step] as number;
    return {
      chosen: word & 7,
      asker: (word >>> 3) & 7,
      enabled: (word >>> 6) & 63,
      free: (word >>> 12) & 63,
      label: this.labelName(word >>> 18),
    };
  }

  /** Number of a label; the first thread to name it enters it into the shared table. */
  labelId(label: string): number {
    const known = this.#ids.get(label);
    if (known !== undefined) return known;
    const count = this.words[Ctl.labels] as number;
    let id = 0;
    while (id < count && this.#readLabel(id) !== label) id++;
    if (id === count) this.#enterLabel(id, label);
    this.#ids.set(label, id);
    return id;
  }

  labelName(id: number): string {
    return (this.#names[id] ??= this.#readLabel(id));
  }

  #readLabel(id: number): string {
    return this.#readText(LABELS + id * LABEL_WORDS, LABEL_WORDS * 4).replace(/\0+$/, '');
  }

  #enterLabel(id: number, label: string): void {
    if (id === MAX_LABELS) throw new Error('too many labels');
    this.#writeText(LABELS + id * LABEL_WORDS, label, LABEL_WORDS * 4);
    this.words[Ctl.labels] = id + 1;
  }

  setFailure(actor: number, text: string): void {
    this.words[Ctl.failed] = actor;
    this.words[Ctl.textLength] = this.#writeText(TEXT, text, TEXT_WORDS * 4);
  }

  get failure(): string {
    return this.#readText(TEXT, this.words[Ctl.textLength] as number);
  }

  #writeText(at: number, text: string, maxBytes: number): number {
    const bytes = new TextEncoder().encode(text).subarray(0, maxBytes);
    const into = new Uint8Array(this.words.buffer, at * 4, maxBytes);
    into.fill(0);
    into.set(bytes);
    return bytes.length;
  }

  #readText(at: number, bytes: number): string {
    // A decoder refuses shared memory, hence the copy.
    return new TextDecoder().decode(new Uint8Array(this.words.buffer, at * 4, bytes).slice());
  }
}
