import { readFileSync } from 'node:fs';

/** One line of docs/requirements.md. */
export type Requirement = {
  /** `U-11`, `T-UF-03`, `T-NOT`. */
  id: string;
  /** `U`; `T` for every row of part T. */
  part: string;
  title: string;
  outOfScope?: string;
};

const LINE = /^- \*\*((?:T-)?[A-Z]+(?:-\d+)?)\*\* (.*?)(?: — out of scope: (.*))?$/;

/** Throws when a line is malformed or a number occurs twice. */
export function parseRequirements(text: string): Requirement[] {
  const seen = new Set<string>();
  return text
    .split('\n')
    .filter(line => line.startsWith('- '))
    .map(line => {
      const [, id, title, outOfScope] = LINE.exec(line) ?? [];
      if (id === undefined || title === undefined) throw new Error(`not a requirement: ${line}`);
      if (seen.has(id)) throw new Error(`${id} stands there twice`);
      seen.add(id);
      const part = id.slice(0, id.indexOf('-'));
      return { id, part, title, ...(outOfScope === undefined ? {} : { outOfScope }) };
    });
}

export const readRequirements = (): Requirement[] =>
  parseRequirements(readFileSync('docs/requirements.md', 'utf8'));

// `U-11`, `U-1..U-6`, `U-1..6`, `T-FIP-03, -09`, `U-12/13`. An en dash or three dots may stand for the two.
const CITATION =
  /\b(T-[A-Z]+|[A-Z]{1,2})-(\d+)((?:\s*(?:\.\.\.?|…|–|,|\/|and)\s*(?:\1-|-)?\d+(?![\d.]*[a-z%])\b)*)|\bT-NOT\b/g;
const MORE = /(\.\.\.?|…|–|,|\/|and)\s*((?:(?:T-)?[A-Z]+)?-?)(\d+)/g;

const idOf = (prefix: string, number: number): string =>
  `${prefix}-${prefix.startsWith('T-') ? String(number).padStart(2, '0') : number}`;

/** The numbers that a text cites. */
export function citationsIn(text: string): Set<string> {
  const found = new Set<string>();
  for (const [whole, prefix, first, rest] of text.matchAll(CITATION)) {
    if (prefix === undefined) {
      found.add(whole);
      continue;
    }
    let last = Number(first);
    found.add(idOf(prefix, last));
    for (const [, sign, named, next] of (rest ?? '').matchAll(MORE)) {
      const range = sign !== ',' && sign !== '/' && sign !== 'and';
      // A bare number after a comma is prose: `K-14, 3 times`.
      if (!range && sign !== '/' && named === '') break;
      for (let n = range ? last + 1 : Number(next); n <= Number(next); n++) found.add(idOf(prefix, n));
      last = Number(next);
    }
  }
  return found;
}
