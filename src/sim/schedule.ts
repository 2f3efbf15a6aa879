import type { Decision } from './control.ts';

/** Who gets the turn at each decision; after its end, whoever is running goes on. */
export type Plan = readonly number[];

/** Depth first through all schedules of at most `preemptions` preemptions. */
export class DepthFirst {
  readonly #preemptions: number;
  /** Alternatives not yet tried, per decision of the current path. */
  readonly #open: { plan: number[]; left: number[] }[] = [];
  #pruned = 0;

  constructor(preemptions: number) {
    this.#preemptions = preemptions;
  }

  /** Alternatives that the bound kept from being tried. */
  get pruned(): number {
    return this.#pruned;
  }

  /** Notes the alternatives of a schedule that was run with `plan`. */
  ran(plan: Plan, decisions: readonly Decision[]): void {
    let spent = 0;
    const chosen = decisions.map(d => d.chosen);
    for (let step = 0; step < decisions.length; step++) {
      const d = decisions[step] as Decision;
      if (step >= plan.length) this.#note(d, spent, chosen.slice(0, step));
      if (isPreemption(d, d.chosen)) spent++;
    }
  }

  #note(d: Decision, spent: number, prefix: number[]): void {
    const left: number[] = [];
    for (let actor = 0; actor < 6; actor++) {
      if ((d.enabled & (1 << actor)) === 0 || actor === d.chosen) continue;
      if (isPreemption(d, actor) && spent >= this.#preemptions) this.#pruned++;
      else left.push(actor);
    }
    if (left.length > 0) this.#open.push({ plan: prefix, left });
  }

  /** The next plan to run, or undefined when all have been. */
  next(): number[] | undefined {
    const top = this.#open.at(-1);
    if (top === undefined) return undefined;
    const plan = [...top.plan, top.left.pop() as number];
    if (top.left.length === 0) this.#open.pop();
    return plan;
  }
}

/** Taking the turn from somebody who could have gone on, or giving it out of turn to somebody who polls. */
function isPreemption(d: Decision, chosen: number): boolean {
  return (d.free & (1 << chosen)) === 0;
}

/** `vcpu*6 reclaim*9 vcpu`: a plan as a line to paste back. */
export function formatPlan(plan: Plan, names: readonly string[]): string {
  const runs: { actor: number; count: number }[] = [];
  for (const actor of plan) {
    const last = runs.at(-1);
    if (last?.actor === actor) last.count++;
    else runs.push({ actor, count: 1 });
  }
  return runs.map(r => `${names[r.actor]}${r.count > 1 ? `*${r.count}` : ''}`).join(' ');
}

/** The inverse of `formatPlan`. Throws RangeError on an unknown name. */
export function parsePlan(text: string, names: readonly string[]): number[] {
  const plan: number[] = [];
  for (const word of text.trim().split(/\s+/).filter(Boolean)) {
    const [name, count] = word.split('*') as [string, string?];
    const actor = names.indexOf(name);
    if (actor < 0) throw new RangeError(`no actor '${name}'; there are ${names.join(', ')}`);
    for (let i = Number(count ?? 1); i > 0; i--) plan.push(actor);
  }
  return plan;
}
