import type { Waiter } from '../sync/waiter.ts';
import { Actor, ActorState, CONTROLLER, type Control, Ctl, Stop } from './control.ts';

/** Unwinds an actor whose schedule ended early. Nothing in the core catches it to carry on. */
export class ScheduleEnd extends Error {
  override readonly name = 'ScheduleEnd';
}

/**
 * One actor's way through the turnstile: a Waiter that runs the core on a real thread, but lets it pass a
 * named point, sleep and wake only when the schedule says so. The decision is taken by whoever has the
 * turn, so going on costs no switch of threads.
 *
 * A sleeper wakes by `notify` alone, in the order of sleeping, as `Atomics.wait` has it; so a lost wake-up
 * is a deadlock here. A sleep with a time limit may also end once anybody else has made a step.
 */
export class Turnstile implements Waiter {
  readonly #control: Control;
  readonly #words: Int32Array;
  readonly #self: number;
  readonly #arena: Int32Array;
  /** A holder of a lock does not yield: who gets the turn would run into it. */
  holdsLock: () => boolean = () => false;
  /** Passes of each label since this actor got the turn. */
  readonly #passed = new Map<string, number>();

  constructor(control: Control, self: number, arena: Int32Array) {
    this.#control = control;
    this.#words = control.words;
    this.#self = self;
    this.#arena = arena;
  }

  readonly point = (label: string): void => {
    this.#decide(label, true);
  };

  spins(): number {
    return 0;
  }

  wait(at: number, expected: number, timeoutMs?: number): 'ok' | 'timed-out' | 'not-equal' {
    // Between a caller's look at the word and its sleep anything may happen: that is where wake-ups get lost.
    this.#decide('wait', true);
    if (this.#arena[at] !== expected) return 'not-equal';
    const timed = timeoutMs !== undefined && timeoutMs !== Number.POSITIVE_INFINITY;
    this.#set(Actor.state, timed ? ActorState.TimedAsleep : ActorState.Asleep);
    this.#set(Actor.waitAt, at);
    this.#set(Actor.order, this.#words[Ctl.sleeps]!++);
    this.#set(Actor.sleptAt, this.#words[Ctl.step]! + 1);
    this.#decide('sleep', false);
    const woken = this.#words[this.#control.actorWord(this.#self, Actor.state)] === ActorState.Ready;
    this.#set(Actor.state, ActorState.Ready);
    this.#set(Actor.waitAt, 0);
    return woken ? 'ok' : 'timed-out';
  }

  notify(at: number, count: number): void {
    for (; count > 0; count--) {
      const sleeper = this.#firstSleeper(at);
      if (sleeper < 0) return;
      this.#words[this.#control.actorWord(sleeper, Actor.state)] = ActorState.Ready;
    }
  }

  /** Before the actor's first step: its turn has come, or the schedule is over already. */
  begin(): void {
    this.#passed.clear();
    this.#stopIfOver();
  }

  /** After the actor's last step; hands the turn on. */
  finish(failure: string | undefined): void {
    const over = this.#words[Ctl.stop] !== Stop.None;
    if (failure !== undefined && !over) {
      this.#words[Ctl.stop] = Stop.Threw;
      this.#control.setFailure(this.#self, failure);
    }
    this.#set(Actor.state, ActorState.Done);
    if (this.#words[Ctl.stop] !== Stop.None) this.#control.hand(this.#nextToUnwind());
    else this.#leave();
  }

  #leave(): void {
    const enabled = this.#enabled();
    if (enabled === 0) {
      const done = this.#nextToUnwind() === CONTROLLER;
      if (!done) this.#words[Ctl.stop] = Stop.Deadlock;
      this.#control.hand(this.#nextToUnwind());
      return;
    }
    const chosen = this.#choose('end', 'asleep', enabled);
    this.#control.hand(chosen < 0 ? this.#nextToUnwind() : chosen);
  }

  #decide(label: string, canGoOn: boolean): void {
    this.#stopIfOver();
    let enabled = this.#enabled();
    if (enabled === 0) this.#stop(Stop.Deadlock);
    const others = enabled & ~(1 << this.#self);
    const yields = canGoOn && others !== 0 && this.#mustYield(label);
    if (yields) enabled = others;
    const state = yields ? 'yields' : canGoOn ? 'ready' : 'asleep';
    const chosen = this.#choose(label, state, enabled);
    if (chosen < 0) throw new ScheduleEnd('stopped');
    if (chosen === this.#self) return;
    this.#control.hand(chosen);
    this.#control.await(this.#self);
    this.#passed.clear();
    this.#stopIfOver();
  }

  /** Takes one decision and records it; -1 when it ends the schedule. */
  #choose(label: string, asker: 'ready' | 'yields' | 'asleep', enabled: number): number {
    const step = this.#words[Ctl.step] as number;
    if (step >= this.#words[Ctl.maxSteps]!) {
      this.#words[Ctl.stop] = Stop.NoProgress;
      return -1;
    }
    const preferred = asker === 'ready' ? this.#self : this.#longestWaiting(enabled);
    let chosen = preferred;
    if (step < this.#words[Ctl.planLength]!) chosen = this.#words[Ctl.plan + step] as number;
    else if (this.#words[Ctl.random] !== 0) chosen = this.#random(chosen, enabled);
    if ((enabled & (1 << chosen)) === 0) {
      this.#words[Ctl.stop] = Stop.Misfit;
      return -1;
    }
    const free = (asker === 'asleep' ? enabled & ~this.#polling() : 0) | (1 << preferred);
    this.#control.record(step, { chosen, asker: this.#self, enabled, free }, this.#control.labelId(label));
    this.#words[Ctl.step] = step + 1;
    this.#set(Actor.ranAt, step + 1);
    return chosen;
  }

  /** Whose turn it is when the asker can't go on: so of several that poll, none keeps the others from theirs. */
  #longestWaiting(enabled: number): number {
    let best = -1;
    let bestRan = Number.POSITIVE_INFINITY;
    for (let i = 0; i < this.#words[Ctl.actors]!; i++) {
      const ran = this.#words[this.#control.actorWord(i, Actor.ranAt)] as number;
      if ((enabled & (1 << i)) === 0 || ran >= bestRan) continue;
      best = i;
      bestRan = ran;
    }
    return best;
  }

  /** xorshift32 in the control block, so that a seed gives one schedule. */
  #random(preferred: number, enabled: number): number {
    let s = this.#words[Ctl.random] as number;
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    this.#words[Ctl.random] = s;
    const every = this.#words[Ctl.randomEvery] as number;
    if ((enabled & (1 << preferred)) !== 0 && (s >>> 8) % every !== 0) return preferred;
    const candidates = [];
    for (let i = 0; i < 32; i++) if ((enabled & (1 << i)) !== 0) candidates.push(i);
    return candidates[(s >>> 4) % candidates.length] as number;
  }

  /** A label passed so often in one turn is a loop that waits for somebody: let them run. */
  #mustYield(label: string): boolean {
    const limit = this.#words[Ctl.fair] as number;
    const times = (this.#passed.get(label) ?? 0) + 1;
    this.#passed.set(label, times);
    return limit > 0 && times > limit && !this.holdsLock();
  }

  #enabled(): number {
    const actors = this.#words[Ctl.actors] as number;
    let ready = 0;
    let timed = 0;
    for (let i = 0; i < actors; i++) {
      const state = this.#stateOf(i);
      if (state === ActorState.Ready) ready |= 1 << i;
      if (state === ActorState.TimedAsleep) {
        timed |= 1 << i;
        const sleptAt = this.#words[this.#control.actorWord(i, Actor.sleptAt)] as number;
        if (this.#words[Ctl.step]! > sleptAt) ready |= 1 << i;
      }
    }
    return ready === 0 ? timed : ready;
  }

  /** Those who sleep with a time limit. */
  #polling(): number {
    let mask = 0;
    for (let i = 0; i < this.#words[Ctl.actors]!; i++) {
      if (this.#stateOf(i) === ActorState.TimedAsleep) mask |= 1 << i;
    }
    return mask;
  }

  #firstSleeper(at: number): number {
    let first = -1;
    let order = Number.POSITIVE_INFINITY;
    for (let i = 0; i < this.#words[Ctl.actors]!; i++) {
      const state = this.#stateOf(i);
      if (state !== ActorState.Asleep && state !== ActorState.TimedAsleep) continue;
      if (this.#words[this.#control.actorWord(i, Actor.waitAt)] !== at) continue;
      const slept = this.#words[this.#control.actorWord(i, Actor.order)] as number;
      if (slept < order) {
        order = slept;
        first = i;
      }
    }
    return first;
  }

  #stop(why: Stop): never {
    this.#words[Ctl.stop] = why;
    throw new ScheduleEnd('stopped');
  }

  #stopIfOver(): void {
    if (this.#words[Ctl.stop] !== Stop.None) throw new ScheduleEnd('stopped');
  }

  /** After an early end every actor gets the turn once more, to unwind; then the controller. */
  #nextToUnwind(): number {
    for (let i = 0; i < this.#words[Ctl.actors]!; i++) {
      if (this.#stateOf(i) !== ActorState.Done) return i;
    }
    return CONTROLLER;
  }

  #stateOf(actor: number): number {
    return this.#words[this.#control.actorWord(actor, Actor.state)] as number;
  }

  #set(field: number, value: number): void {
    this.#words[this.#control.actorWord(this.#self, field)] = value;
  }
}
