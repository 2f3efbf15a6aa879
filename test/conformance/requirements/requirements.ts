import { witnesses } from './citations.ts';
import { readRequirements } from './list.ts';
import { complaints, print, rows } from './report.ts';
import { checkSeeds } from './seeds.ts';

export type RequirementsOptions = { untestedOnly: boolean; print(line: string): void };

/** Prints each requirement with what cites it, then the two seeds; returns the number of complaints. */
export async function runRequirements(o: RequirementsOptions): Promise<number> {
  const requirements = readRequirements();
  const found = await witnesses();
  const all = rows(requirements, found);
  print(all, o.untestedOnly, o.print);
  const seeds = checkSeeds(new Set(requirements.map(r => r.id)));
  o.print(`seeds: ${seeds.hunks} hunks, ${seeds.unbuilt.length} not wholly built`);
  for (const hunk of seeds.unbuilt) o.print(`    ${hunk}`);
  const bad = [...complaints(all, found), ...seeds.complaints];
  for (const line of bad) o.print(line);
  return bad.length;
}
