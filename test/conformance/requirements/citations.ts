import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import ts from 'typescript';
import { schedulesOf } from '../../../src/sim/case.ts';
import { allCases } from '../../../src/sim/cases/index.ts';
import { LITMUS } from '../../../src/sim/litmus-tests.ts';
import { citationsIn } from './list.ts';

/** Something that runs, and what it says that it proves. */
export type Witness = {
  /** `src/mm/mmap.test.ts:12`, `explore T-FIR-13`, `litmus T-WAK-03`, `bench resume`. */
  where: string;
  title: string;
  ids: ReadonlySet<string>;
  /** Rules that it switches off, and then fails. */
  mutants: readonly string[];
};

export const filesUnder = (folder: string, end: string): string[] =>
  readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter(entry => entry.isFile() && entry.name.endsWith(end))
    .map(entry => relative('.', join(entry.parentPath, entry.name)))
    .sort();

const parse = (path: string): ts.SourceFile =>
  ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest, true);

/** Names of the rules that a test may switch off: the members of every type called `…Breaks`. */
export function ruleNames(): Set<string> {
  const names = new Set<string>();
  for (const path of filesUnder('src', '.ts')) {
    if (!readFileSync(path, 'utf8').includes('Breaks = {')) continue;
    parse(path).forEachChild(node => {
      if (!ts.isTypeAliasDeclaration(node) || !node.name.text.endsWith('Breaks')) return;
      if (!ts.isTypeLiteralNode(node.type)) return;
      for (const member of node.type.members) {
        const isRule = ts.isPropertySignature(member) && member.type?.kind === ts.SyntaxKind.BooleanKeyword;
        if (isRule && ts.isIdentifier(member.name)) names.add(member.name.text);
      }
    });
  }
  return names;
}

/** The identifier that a chain of members and calls starts with: `test` of `test.skipIf(x)('…', …)`. */
function rootOf(node: ts.Expression): string | undefined {
  if (ts.isIdentifier(node)) return node.text;
  if (ts.isPropertyAccessExpression(node)) {
    return node.name.text === 'todo' || node.name.text === 'skip' ? undefined : rootOf(node.expression);
  }
  return ts.isCallExpression(node) ? rootOf(node.expression) : undefined;
}

/** Rules named in a test: `mutant('rule', …)`, `{ rule: true }`, or a table of names that it goes through. */
function mutantsIn(test: ts.Node, rules: ReadonlySet<string>): string[] {
  const found = new Set<string>();
  const visit = (node: ts.Node): void => {
    if (ts.isStringLiteral(node) && rules.has(node.text)) found.add(node.text);
    const isOn = ts.isPropertyAssignment(node) && node.initializer.kind === ts.SyntaxKind.TrueKeyword;
    if (isOn && ts.isIdentifier(node.name) && rules.has(node.name.text)) found.add(node.name.text);
    node.forEachChild(visit);
  };
  visit(test);
  return [...found];
}

/** The tests of one file. What a test cites stands in its title, its body, or the comment above it. */
export function testsOf(source: ts.SourceFile, rules: ReadonlySet<string>): Witness[] {
  const witnesses: Witness[] = [];
  const visit = (node: ts.Node): void => {
    const title = ts.isCallExpression(node) ? node.arguments[0] : undefined;
    const isTest =
      title !== undefined && ts.isCallExpression(node) && /^(test|it)$/.test(rootOf(node.expression) ?? '');
    if (!isTest || !(ts.isStringLiteralLike(title) || ts.isTemplateExpression(title))) {
      node.forEachChild(visit);
      return;
    }
    const statement = ts.isExpressionStatement(node.parent) ? node.parent : node;
    const line = source.getLineAndCharacterOfPosition(node.getStart()).line + 1;
    witnesses.push({
      where: `${source.fileName}:${line}`,
      title: ts.isStringLiteralLike(title) ? title.text : title.getText().slice(1, -1),
      ids: citationsIn(statement.getFullText()),
      mutants: mutantsIn(node, rules),
    });
  };
  visit(source);
  return witnesses;
}

/** The text of the object that declares a case of that name, for what its comments cite. */
function caseTexts(): Map<string, string> {
  const texts = new Map<string, string>();
  for (const path of filesUnder('src/sim/cases', '.ts')) {
    const visit = (node: ts.Node): void => {
      if (ts.isVariableStatement(node)) {
        const name = /^ {2}name: '(.*)',$/m.exec(node.getText())?.[1];
        if (name !== undefined) texts.set(name, node.getFullText());
      }
      node.forEachChild(visit);
    };
    visit(parse(path));
  }
  return texts;
}

/** The explorer's cases: name, title, schedules to reach, names of mutants and comments cite. */
async function cases(): Promise<Witness[]> {
  const texts = caseTexts();
  return (await allCases()).map(c => {
    const schedules = c.profiles.flatMap(profile => Object.keys(schedulesOf(c, profile)));
    const mutants = c.mutants.map(mutant => mutant.name);
    const words = [c.name, c.title, ...schedules, ...mutants, texts.get(c.name) ?? ''];
    return { where: `explore ${c.name}`, title: c.title, ids: citationsIn(words.join('; ')), mutants };
  });
}

/** Litmus tests: the control, which breaks the rule, is the mutant. */
const litmus = (): Witness[] =>
  LITMUS.map(({ name, title }) => ({
    where: `litmus ${name}`,
    title,
    ids: citationsIn(`${name} ${title}`),
    mutants: ['control'],
  }));

/** Benchmarks with a floor: what the comment at the head of the file cites. */
function benches(): Witness[] {
  return filesUnder('bench', '.ts').map(path => {
    const text = readFileSync(path, 'utf8');
    const head = /^(?:\s*(?:\/\/.*|\/\*[\s\S]*?\*\/))*/.exec(text)?.[0] ?? '';
    return { where: path, title: 'a benchmark', ids: citationsIn(head), mutants: [] };
  });
}

/** Everything that runs and cites a requirement. */
export async function witnesses(): Promise<Witness[]> {
  const rules = ruleNames();
  const files = ['src', 'test', 'tools'].flatMap(folder => filesUnder(folder, '.test.ts'));
  const tests = files.flatMap(path => testsOf(parse(path), rules));
  return [...tests, ...(await cases()), ...litmus(), ...benches()].filter(w => w.ids.size > 0);
}
