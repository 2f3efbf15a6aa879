import { expect } from 'vitest';

/**
 * Runs a scenario twice: with every rule in force it must pass, with `rule` switched off it must throw.
 * `npm run conformance -- requirements` takes a row of part T for tested only if a test that cites it has such
 * a mutant, or if an explorer case has. `B` is the type of the switches, such as MmBreaks.
 */
export function mutant<B>(rule: keyof B & string, scenario: (breaks: Partial<B>) => void): void {
  scenario({});
  const broken = { [rule]: true } as Partial<B>;
  expect(() => scenario(broken), `nothing fails without the rule: ${rule}`).toThrow();
}
