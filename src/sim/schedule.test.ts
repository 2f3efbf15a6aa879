import { expect, test } from 'vitest';
import { satisfies } from './case.ts';
import type { Decision } from './control.ts';
import { DepthFirst, formatPlan, parsePlan } from './schedule.ts';

/** Runs `steps[i]` steps of actor i under a plan, none of which sleeps; who went when. */
function run(steps: readonly number[], plan: readonly number[]): Decision[] {
  const left = [...steps];
  const decisions: Decision[] = [];
  let asker = 6;
  while (left.some(n => n > 0)) {
    const enabled = left.reduce((mask, n, i) => (n > 0 ? mask | (1 << i) : mask), 0);
    const canGoOn = asker < 6 && left[asker]! > 0;
    const first = left.findIndex(n => n > 0);
    const chosen = plan[decisions.length] ?? (canGoOn ? asker : first);
    const free = canGoOn ? 1 << asker : enabled;
    decisions.push({ chosen, asker, enabled, free, label: 'x' });
    left[chosen]!--;
    asker = chosen;
  }
  return decisions;
}

function orders(steps: readonly number[], preemptions: number): string[] {
  const search = new DepthFirst(preemptions);
  const seen: string[] = [];
  for (let plan: number[] | undefined = []; plan !== undefined; plan = search.next()) {
    const decisions = run(steps, plan);
    seen.push(decisions.map(d => d.chosen).join(''));
    search.ran(plan, decisions);
  }
  return seen;
}

const choose = (n: number, k: number): number => (k === 0 ? 1 : (choose(n - 1, k - 1) * n) / k);

test('without a bound, depth first finds every interleaving once', () => {
  const seen = orders([4, 6], 99);
  expect(new Set(seen).size).toBe(seen.length);
  expect(seen.length).toBe(choose(10, 4));
});

test('a bound keeps just the interleavings of so many preemptions', () => {
  const all = orders([4, 4], 99);
  const preemptionsOf = (order: string): number => {
    let count = 0;
    const left = [4, 4];
    for (const [i, actor] of [...order].entries()) {
      const before = order[i - 1];
      if (before !== undefined && before !== actor && left[Number(before)]! > 0) count++;
      left[Number(actor)]!--;
    }
    return count;
  };
  for (const bound of [0, 1, 2]) {
    expect(orders([4, 4], bound).sort()).toEqual(all.filter(o => preemptionsOf(o) <= bound).sort());
  }
});

test('a plan survives being printed and pasted back', () => {
  const names = ['vcpu', 'reclaim'];
  const plan = [0, 0, 0, 1, 0, 1, 1];
  expect(formatPlan(plan, names)).toBe('vcpu*3 reclaim vcpu reclaim*2');
  expect(parsePlan(formatPlan(plan, names), names)).toEqual(plan);
  expect(() => parsePlan('vpcu*2', names)).toThrow("no actor 'vpcu'");
});

test('a constraint holds if the first occurrences stand in its order, in every chain', () => {
  const trace = ['a:F.s', 'b:I.P', 'a:F.p', 'a:F.s'].map(e => {
    const [actor, label] = e.split(':') as [string, string];
    return { actor, label };
  });
  const held = ['F.s < I.P < F.p', 'I.P < F.s', 'F.s < F.p, I.P < F.p', 'b:F.s < F.p', 'F.s < X'].map(c =>
    satisfies(trace, c),
  );
  expect(held).toEqual([true, false, true, false, false]);
});
