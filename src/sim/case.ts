import type { Sync } from '../sync/sync.ts';

/** What became of one schedule's points, in order. */
export type Event = { actor: string; label: string };

/** What makes a thread's view of the core under test. */
export type CoreOptions<B> = { profile: string; breaks: Partial<B> };

/**
 * A race to explore. `core` runs on each thread; `setup`, and `oracle` after every schedule, run alone, on
 * the controller's thread. `setup`'s result is plain data: it goes to the actors.
 */
export type Case<C, S, B> = {
  /** A row of semantics.md part T, or a name. */
  name: string;
  /** What is raced against what, for `--list`. */
  title: string;
  profiles: readonly string[];
  arena: { frames: number; heapBytes: number };
  /** Stop before every atomic access rather than at named points. */
  everyAtomic?: boolean;
  core(sync: Sync, options: CoreOptions<B>): C;
  /**
   * Forgets what a thread keeps outside the arena, so that the core serves another schedule. Without it
   * the core is made anew each time, after the arena was put back.
   */
  reset?(core: C): void;
  setup(core: C, profile: string): S;
  actors: Readonly<Record<string, (core: C, setup: S) => void>>;
  /**
   * Schedules that must occur, by the row that names them. Each is a list of chains over the first
   * occurrences of labels: `F.p < S.l, S.u < F.c < E.l`. `vcpu1:F.p` means that actor's.
   */
  reach: Schedules | ((profile: string) => Schedules);
  /** Throws when the end state, or what happened on the way, breaks a rule. */
  oracle(core: C, setup: S, trace: readonly Event[]): void;
  /** Rules switched off one at a time; each must make some schedule fail. */
  mutants: readonly Mutant<B>[];
  /** Bound of preemptions, where another than the run's is wanted. */
  preemptions?: number;
  maxSteps?: number;
  /** Takes tens of seconds: left to `npm run explore`. */
  heavy?: boolean;
  /** Passes of one label in one turn before the actor must yield; 0 is never. */
  fair?: number;
};

export type Schedules = Readonly<Record<string, string>>;

export type Mutant<B> = {
  name: string;
  breaks: Partial<B>;
  /** Only for these profiles; all if absent. */
  profiles?: readonly string[];
};

// biome-ignore lint/suspicious/noExplicitAny: a registry holds cases over different cores
export type AnyCase = Case<any, any, any>;

export function schedulesOf(test: AnyCase, profile: string): Schedules {
  return typeof test.reach === 'function' ? test.reach(profile) : test.reach;
}

/** True if the first occurrences of the labels stand in the order that the constraint asks for. */
export function satisfies(trace: readonly Event[], constraint: string): boolean {
  return constraint.split(',').every(chain => {
    const places = chain.split('<').map(name => placeOf(trace, name.trim()));
    return places.every((place, i) => place >= 0 && (i === 0 || places[i - 1]! < place));
  });
}

function placeOf(trace: readonly Event[], name: string): number {
  const colon = name.indexOf(':');
  const label = name.slice(colon + 1);
  const actor = colon < 0 ? undefined : name.slice(0, colon);
  return trace.findIndex(e => e.label === label && (actor === undefined || e.actor === actor));
}
