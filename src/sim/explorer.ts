import { AssertionError } from '../base/assert.ts';
import type { Arena } from '../sync/arena.ts';
import { Sync } from '../sync/sync.ts';
import type { Waiter } from '../sync/waiter.ts';
import { type AnyCase, type Event, type Schedules, satisfies } from './case.ts';
import {
  ACTOR_WORDS,
  Actor,
  ActorState,
  CONTROLLER,
  Ctl,
  type Decision,
  MAX_STEPS,
  Stop,
} from './control.ts';
import type { Pool } from './pool.ts';
import { DepthFirst, formatPlan } from './schedule.ts';

export type Options = {
  preemptions: number;
  /** Seeded schedules on top of the exhaustive ones, and their seed. */
  random: number;
  /** Seeded schedules that may switch before every atomic access. */
  atomics: number;
  seed: number;
  /** Give up, and say so, after so many schedules. */
  maxSchedules: number;
};

/** Why a schedule is wrong, and how to see it again. */
export type Failure = { reason: string; schedule: string; trace: string };

export type Exploration = {
  schedules: number;
  pruned: number;
  /** False if `maxSchedules` came first, or an end was not wanted before a failure. */
  complete: boolean;
  /** Labels that occurred. */
  points: Set<string>;
  unreached: string[];
  failure: Failure | undefined;
};

/** The controller's: it runs alone, so whatever it would sleep on was left behind by an actor. */
const alone: Waiter = {
  wait(at) {
    throw new AssertionError(`OR-4: word ${at} is still held at the end`);
  },
  notify() {},
  point() {},
  spins: () => 0,
};

const STOP_TEXT: Record<number, string> = {
  [Stop.Deadlock]: 'deadlock: everybody sleeps',
  [Stop.NoProgress]: 'OR-6: no end within the bound of steps',
  [Stop.Misfit]: 'the schedule names an actor that cannot run there',
};

/** One case under one profile and one set of broken rules, ready to run schedules. */
export class Session {
  readonly #pool: Pool;
  readonly #test: AnyCase;
  readonly #profile: string;
  readonly #breaks: object;
  readonly #everyAtomic: boolean;
  readonly #names: string[];
  #arena!: Arena;
  #snapshot!: Int32Array;
  #setup: unknown;
  #oracleCore: unknown;

  constructor(pool: Pool, test: AnyCase, profile: string, breaks: object = {}, everyAtomic = false) {
    this.#everyAtomic = everyAtomic || test.everyAtomic === true;
    this.#pool = pool;
    this.#test = test;
    this.#profile = profile;
    this.#breaks = breaks;
    this.#names = Object.keys(test.actors);
  }

  get actors(): readonly string[] {
    return this.#names;
  }

  async load(): Promise<void> {
    const { frames, heapBytes } = this.#test.arena;
    await this.#pool.grow(this.#names.length);
    this.#arena = this.#pool.arena({ frames, heapBytes });
    this.#setup = this.#test.setup(this.#core(), this.#profile);
    if (this.#test.reset !== undefined) this.#oracleCore = this.#core();
    for (const [index, actor] of this.#names.entries()) {
      await this.#pool.load(index, {
        name: this.#test.name,
        profile: this.#profile,
        breaks: this.#breaks,
        everyAtomic: this.#everyAtomic,
        actor,
        memory: this.#arena.memory,
        setup: this.#setup,
      });
    }
    this.#snapshot = this.#arena.words.slice();
  }

  /** The controller's own, which keeps the rules: only actors break them. */
  #core(): unknown {
    const sync = new Sync(this.#arena, { waiter: alone, lockdep: true });
    return this.#test.core(sync, { profile: this.#profile, breaks: {} });
  }

  /** Runs one schedule from the start; says what is wrong with it. */
  run(
    plan: readonly number[],
    seed = 0,
  ): { decisions: Decision[]; trace: Event[]; wrong: string | undefined } {
    this.#reset(plan, seed);
    this.#pool.run(this.#first(plan));
    const words = this.#pool.control.words;
    const decisions: Decision[] = [];
    for (let step = 0; step < words[Ctl.step]!; step++) decisions.push(this.#pool.control.decision(step));
    const trace = this.#traceOf(decisions);
    return { decisions, trace, wrong: this.#verdict(trace) };
  }

  #reset(plan: readonly number[], seed: number): void {
    const { words } = this.#pool.control;
    this.#arena.words.set(this.#snapshot);
    words[Ctl.step] = 0;
    words[Ctl.stop] = Stop.None;
    words[Ctl.sleeps] = 0;
    words[Ctl.actors] = this.#names.length;
    words[Ctl.maxSteps] = this.#everyAtomic ? MAX_STEPS : (this.#test.maxSteps ?? 1000);
    words[Ctl.fair] = this.#test.fair ?? (this.#everyAtomic ? 100 : 3);
    words[Ctl.random] = seed;
    words[Ctl.randomEvery] = this.#everyAtomic ? 40 : 6;
    words[Ctl.planLength] = plan.length;
    words.set(plan, Ctl.plan);
    words.fill(ActorState.Ready, Ctl.actor, Ctl.actor + this.#names.length * ACTOR_WORDS);
  }

  /** The first decision is the controller's: who begins. */
  #first(plan: readonly number[]): number {
    const { control } = this.#pool;
    const chosen = plan[0] ?? 0;
    const enabled = (1 << this.#names.length) - 1;
    control.record(0, { chosen, asker: CONTROLLER, enabled, free: enabled }, control.labelId('begin'));
    control.words[Ctl.step] = 1;
    return chosen;
  }

  #traceOf(decisions: readonly Decision[]): Event[] {
    const trace: Event[] = [];
    for (const d of decisions) {
      if (d.asker !== CONTROLLER) trace.push({ actor: this.#names[d.asker] as string, label: d.label });
    }
    return trace;
  }

  #verdict(trace: readonly Event[]): string | undefined {
    const { control } = this.#pool;
    const stop = control.words[Ctl.stop] as Stop;
    if (stop === Stop.Threw) return `${this.#names[control.words[Ctl.failed]!]}: ${control.failure}`;
    if (stop === Stop.Deadlock) return `${STOP_TEXT[stop]}${this.#sleepers()}`;
    if (stop !== Stop.None) return STOP_TEXT[stop];
    try {
      const core = this.#oracleCore ?? this.#core();
      this.#test.reset?.(core);
      this.#test.oracle(core, this.#setup, trace);
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
    return undefined;
  }

  #sleepers(): string {
    const { control } = this.#pool;
    const waits = this.#names.map((_, i) => control.words[control.actorWord(i, Actor.waitAt)] as number);
    return this.#names.map((name, i) => (waits[i] === 0 ? '' : ` ${name}@${waits[i]}`)).join('');
  }

  failureOf(wrong: string, decisions: readonly Decision[], trace: readonly Event[]): Failure {
    return {
      reason: wrong,
      schedule: formatPlan(shortest(decisions), this.#names),
      trace: trace.map(e => `${e.actor}@${e.label}`).join(' '),
    };
  }
}

/** Choices up to the last that differs from going on. */
function shortest(decisions: readonly Decision[]): number[] {
  let length = decisions.length;
  while (length > 1) {
    const d = decisions[length - 1] as Decision;
    if (d.chosen !== d.asker || d.free !== 1 << d.asker) break;
    length--;
  }
  return decisions.slice(0, length).map(d => d.chosen);
}

/** All schedules up to the bound, then seeded ones; stops at the first that fails. */
export function explore(session: Session, reach: Schedules, options: Options): Exploration {
  const search = new DepthFirst(options.preemptions);
  const unreached = new Map(Object.entries(reach));
  const result: Exploration = {
    schedules: 0,
    pruned: 0,
    complete: false,
    points: new Set(),
    unreached: [],
    failure: undefined,
  };
  const step = (plan: readonly number[], seed: number): boolean => {
    const { decisions, trace, wrong } = session.run(plan, seed);
    result.schedules++;
    for (const e of trace) result.points.add(e.label);
    for (const [row, order] of unreached) if (satisfies(trace, order)) unreached.delete(row);
    if (wrong !== undefined) result.failure = session.failureOf(wrong, decisions, trace);
    if (seed === 0) search.ran(plan, decisions);
    return wrong === undefined && result.schedules < options.maxSchedules;
  };
  let going = true;
  for (let plan: number[] | undefined = []; going && plan !== undefined; plan = search.next()) {
    going = step(plan, 0);
  }
  result.complete = going;
  const random = session.actors.length > 1 ? options.random : 0;
  for (let i = 0; going && i < random; i++) going = step([], (options.seed + i * 7919) | 1);
  result.pruned = search.pruned;
  result.unreached = [...unreached].map(([row, order]) => `${row}: ${order}`);
  return result;
}
