import { AssertionError } from '../base/assert.ts';
import type { Event } from './case.ts';

/** Half-open range of guest frames. */
export type Range = readonly [number, number];

/**
 * Every retry of a fault has a reason (K-25, T-FIR-09, T-FIR-12): an invalidation ended between its sample
 * and its check, or one that covers the gfn was under way at the check. `ranges` are those that each actor
 * invalidates, in order; `vcpu` faults on `gfn` alone.
 */
export function checkRetries(
  trace: readonly Event[],
  vcpu: string,
  gfn: number,
  ranges: Readonly<Record<string, readonly Range[]>>,
  profile: string,
): void {
  const under = new Map<string, Range>();
  const begun = new Map<string, number>();
  let hull: Range | undefined;
  let moved = false;
  let retryable = false;
  for (const [i, { actor, label }] of trace.entries()) {
    if (label === 'S.n' && ranges[actor] !== undefined && !under.has(actor)) {
      const range = ranges[actor]![begun.get(actor) ?? 0] ?? ranges[actor]!.at(-1)!;
      begun.set(actor, (begun.get(actor) ?? 0) + 1);
      hull = under.size === 0 || hull === undefined ? range : union(hull, range);
      under.set(actor, range);
    }
    if (label === 'E.d') under.delete(actor);
    if (label === 'E.q' || label === 'I.b' || label === 'I.e') moved = true;
    if (actor !== vcpu) continue;
    if (label === 'F.s') moved = false;
    if (label === 'F.c') {
      const covered = hull !== undefined && gfn >= hull[0] && gfn < hull[1];
      retryable = moved || (under.size > 0 && (profile === 'nonrange' || covered));
    }
    if (label === 'F.c' && nextOf(trace, i, vcpu) !== 'F.i' && !retryable) {
      throw new AssertionError('K-25: a fault retried though nothing that concerns it changed');
    }
  }
}

const union = (a: Range, b: Range): Range => [Math.min(a[0], b[0]), Math.max(a[1], b[1])];

function nextOf(trace: readonly Event[], from: number, actor: string): string | undefined {
  return trace.slice(from + 1).find(e => e.actor === actor && e.label.startsWith('F.'))?.label;
}
