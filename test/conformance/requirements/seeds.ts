import { existsSync, readFileSync } from 'node:fs';
import { filesUnder } from './citations.ts';
import { citationsIn } from './list.ts';

// docs/seeds.md: each hunk's row names requirements, files, functions and tests that are there.

const CODE = /`([^`]+)`/g;
const FILE = /^(?:src\/|test\/|bench\/)?[\w./-]+\.(?:ts|c)$/;
/** A function or member named beside a file: `kvm/mmu.ts` removeLeaf, #publish. */
const MEMBER = /#?\b[a-z]\w*[A-Z]\w*\b|#[a-z]\w*/g;

type Tree = { paths: readonly string[]; textOf(path: string): string };

/** Every file that a name may mean: a path under src, or the end of one. */
const resolve = (tree: Tree, name: string): string[] =>
  tree.paths.filter(path => path === name || path === `src/${name}` || path.endsWith(`/${name}`));

function checkPlace(tree: Tree, cell: string): string[] {
  const missing: string[] = [];
  let text = '';
  for (const [, name] of cell.matchAll(CODE)) {
    if (!FILE.test(name!)) continue;
    const paths = resolve(tree, name!);
    if (paths.length === 0) missing.push(`no file ${name}`);
    for (const path of paths) text += tree.textOf(path);
  }
  for (const [member] of cell.replaceAll(CODE, '').matchAll(MEMBER)) {
    if (!text.includes(member)) missing.push(`no ${member} in the files named`);
  }
  return missing;
}

const rowsOf = (text: string): string[][] =>
  text
    .split('\n')
    .filter(line => line.startsWith('| ') && !line.startsWith('| ---') && !line.startsWith('| hunk'))
    .map(line =>
      line
        .split(/(?<!\\)\|/)
        .slice(1, -1)
        .map(cell => cell.trim()),
    );

function checkRow(row: readonly string[], tree: Tree, known: ReadonlySet<string>): string[] {
  const [, numbers = '', here = '', tests = ''] = row;
  // OR-1 to OR-7 are what every case is judged by, and no requirements.
  const all = [...citationsIn(numbers), ...citationsIn(tests)].filter(id => !id.startsWith('OR-'));
  const cited = all.filter(id => !known.has(id));
  return [...cited.map(id => `no requirement ${id}`), ...checkPlace(tree, here), ...checkPlace(tree, tests)];
}

export type SeedReport = { hunks: number; unbuilt: string[]; complaints: string[] };

/** Reads the table; what it names and is not there is a complaint, what it leaves open (—) is listed. */
export function checkSeeds(
  known: ReadonlySet<string>,
  text = readFileSync('docs/seeds.md', 'utf8'),
): SeedReport {
  const paths = ['src', 'test', 'bench'].filter(existsSync).flatMap(folder => filesUnder(folder, '.ts'));
  const tree: Tree = { paths, textOf: path => readFileSync(path, 'utf8') };
  const rows = rowsOf(text);
  return {
    hunks: rows.length,
    unbuilt: rows.filter(row => row.slice(2, 4).some(cell => cell.startsWith('—'))).map(row => row[0]!),
    complaints: rows.flatMap(row =>
      checkRow(row, tree, known).map(what => `docs/seeds.md, ${row[0]}: ${what}`),
    ),
  };
}
