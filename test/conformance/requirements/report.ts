import type { Witness } from './citations.ts';
import type { Requirement } from './list.ts';

/** The parts that the bar is about. */
export const BAR_PARTS = ['J', 'M', 'N', 'K', 'L', 'U', 'H', 'R', 'F', 'V', 'C'] as const;
const BAR = 0.95;
const OUT_OF_SCOPE_MAX = 0.05;

export type Row = {
  requirement: Requirement;
  /** What cites it and counts. */
  by: readonly Witness[];
  /** What cites it but has no mutant, where one is asked for. */
  weak: readonly Witness[];
};

/** A row of part T counts only through a witness with a mutant. */
export function rows(requirements: readonly Requirement[], witnesses: readonly Witness[]): Row[] {
  return requirements.map(requirement => {
    const citing = witnesses.filter(w => w.ids.has(requirement.id));
    if (requirement.part !== 'T') return { requirement, by: citing, weak: [] };
    const by = citing.filter(w => w.mutants.length > 0);
    return { requirement, by, weak: citing.filter(w => w.mutants.length === 0) };
  });
}

export type Count = { part: string; all: number; out: number; tested: number };

const count = (part: string, of: readonly Row[]): Count => {
  const inScope = of.filter(row => row.requirement.outOfScope === undefined);
  const tested = inScope.filter(row => row.by.length > 0).length;
  return { part, all: of.length, out: of.length - inScope.length, tested };
};

export function counts(all: readonly Row[]): Count[] {
  const parts = [...new Set(all.map(row => row.requirement.part))];
  return parts.map(part =>
    count(
      part,
      all.filter(row => row.requirement.part === part),
    ),
  );
}

/** What does not hold: cited numbers that nobody asked for, too little tested, too much left out. */
export function complaints(all: readonly Row[], witnesses: readonly Witness[]): string[] {
  const known = new Set(all.map(row => row.requirement.id));
  const parts = new Set(all.map(row => row.requirement.part));
  const found: string[] = [];
  for (const { where, ids } of witnesses) {
    for (const id of ids) {
      const isOurs = parts.has(id.slice(0, id.indexOf('-')));
      if (isOurs && !known.has(id)) found.push(`${where} cites ${id}, which is no requirement`);
    }
  }
  const bar = count(
    'bar',
    all.filter(row => (BAR_PARTS as readonly string[]).includes(row.requirement.part)),
  );
  if (bar.tested < BAR * (bar.all - bar.out))
    found.push(
      `${bar.tested} of ${bar.all - bar.out} requirements of ${BAR_PARTS.join(' ')} are tested: below 95 %`,
    );
  if (bar.out > OUT_OF_SCOPE_MAX * bar.all)
    found.push(`${bar.out} of ${bar.all} are out of scope: above 5 %`);
  return found;
}

function rowLines({ requirement, by, weak }: Row): string[] {
  const { id, title, outOfScope } = requirement;
  if (outOfScope !== undefined) return [`${id}  ${title}`, `    out of scope: ${outOfScope}`];
  const lines = by.map(({ where, title: test, mutants }) => {
    const note = requirement.part === 'T' ? `  [mutant: ${mutants[0]}]` : '';
    return `    ${where}  ${test}${note}`;
  });
  if (by.length === 0) lines.push('    UNTESTED', ...weak.map(w => `    no mutant: ${w.where}  ${w.title}`));
  return [`${id}  ${title}`, ...lines];
}

export function print(all: readonly Row[], untestedOnly: boolean, out: (line: string) => void): void {
  const wanted = all.filter(
    row => !untestedOnly || (row.by.length === 0 && row.requirement.outOfScope === undefined),
  );
  for (const row of wanted) for (const line of rowLines(row)) out(line);
  out('');
  for (const { part, all: total, out: left, tested } of counts(all)) {
    const scope = left === 0 ? '' : `, ${left} out of scope`;
    out(`${part}: ${tested} of ${total - left} tested${scope}`);
  }
}
