import { AssertionError } from '../base/assert.ts';

/** A rule of the invariants. Literal text first, so that a failure names its rule. */
export function must(condition: boolean, rule: string, ...details: unknown[]): asserts condition {
  if (!condition) throw new AssertionError([rule, ...details].join(' '));
}
