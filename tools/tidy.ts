// A test about the code itself: who imports whom (src/layers.json), how large files and functions are,
// that nothing committed names a place outside the repository, and that every file is reached.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import ts from 'typescript';

const FUNCTION_LINES_MAX = 70;
const FILE_LINES_MAX = 500;
const layers = JSON.parse(readFileSync('src/layers.json', 'utf8')) as Record<string, string[]>;
const complaints: string[] = [];

function sources(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter(entry => entry.isFile() && entry.name.endsWith('.ts'))
    .map(entry => relative('.', join(entry.parentPath, entry.name)))
    .sort();
}

const layerOf = (path: string): string => relative('src', path).split('/')[0] as string;
const isTest = (path: string): boolean => path.endsWith('.test.ts') || path.endsWith('testing.ts');

/** A layer names only layers listed above it, so no cycle can be written down. */
function checkOrder(): void {
  const seen = new Set<string>();
  for (const [layer, allowed] of Object.entries(layers)) {
    for (const below of allowed)
      if (!seen.has(below)) complaints.push(`src/layers.json: ${layer} names ${below} before it is listed`);
    seen.add(layer);
  }
}

function checkImports(path: string, text: string): void {
  const from = layerOf(path);
  if (layers[from] === undefined) complaints.push(`${path}: folder ${from} is not in src/layers.json`);
  for (const { fileName } of ts.preProcessFile(text).importedFiles) {
    if (!fileName.startsWith('.')) {
      checkPackage(path, from, fileName);
      continue;
    }
    const target = relative('.', join(dirname(path), fileName));
    if (!target.startsWith('src/')) complaints.push(`${path}: imports ${fileName}, outside src`);
    const to = layerOf(target);
    if (from !== to && !layers[from]?.includes(to) && !isTest(path)) {
      complaints.push(`${path}: ${from} may not import ${to}; see src/layers.json`);
    }
  }
}

const MAY_NAME_NODE = new Set(['host', 'store', 'image', 'machine', 'sdk', 'cli', 'sim']);
const MAY_NAME_PACKAGES = new Set(['cli', 'store', 'image']);

/** Nothing below `host` names a Node API; only `cli`, `image` and store drivers import packages. */
function checkPackage(path: string, from: string, name: string): void {
  if (isTest(path)) return;
  if (name.startsWith('node:') && !MAY_NAME_NODE.has(from))
    complaints.push(`${path}: ${from} may not use ${name}`);
  if (!name.startsWith('node:') && !MAY_NAME_PACKAGES.has(from))
    complaints.push(`${path}: ${from} may not use package ${name}`);
}

function checkSizes(path: string, text: string): void {
  const lines = text.split('\n').length;
  if (lines > FILE_LINES_MAX)
    complaints.push(`${path}: ${lines} lines; what does not fit is usually a table in disguise`);
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const visit = (node: ts.Node): void => {
    if (
      ts.isFunctionLike(node) &&
      'body' in node &&
      node.body !== undefined &&
      !holdsFunctions(node) &&
      !isTable(node)
    ) {
      const start = source.getLineAndCharacterOfPosition(node.getStart()).line;
      const end = source.getLineAndCharacterOfPosition(node.end).line;
      if (end - start + 1 > FUNCTION_LINES_MAX)
        complaints.push(`${path}:${start + 1}: a function of ${end - start + 1} lines`);
    }
    ts.forEachChild(node, visit);
  };
  if (!isTest(path)) visit(source);
}

/** A function that does nothing but return one literal is a table. */
function isTable(node: ts.Node): boolean {
  if (!('body' in node) || !ts.isBlock(node.body as ts.Node)) return false;
  const statements = (node.body as ts.Block).statements;
  return statements.length === 1 && ts.isReturnStatement(statements[0] as ts.Node);
}

/** A factory that only declares functions is as long as they are together; they are measured one by one. */
function holdsFunctions(node: ts.Node): boolean {
  let inner = 0;
  const count = (child: ts.Node): void => {
    if (ts.isFunctionLike(child) && child !== node) inner++;
    ts.forEachChild(child, count);
  };
  ts.forEachChild(node, count);
  return inner >= 3;
}

/** Every source file is imported by some other, is an entry, or is a test. */
function checkReached(all: Map<string, string>): void {
  const reached = new Set<string>();
  for (const [path, text] of all) {
    for (const { fileName } of ts.preProcessFile(text).importedFiles)
      reached.add(relative('.', join(dirname(path), fileName)));
    for (const match of text.matchAll(/new URL\('(\.[^']+)'/g))
      reached.add(relative('.', join(dirname(path), match[1] as string)));
  }
  const exported = JSON.stringify(JSON.parse(readFileSync('package.json', 'utf8')))
    .replaceAll('/dist/', '/src/')
    .replaceAll('.js', '.ts');
  const entries = exported + readFileSync('tools/bundle.ts', 'utf8');
  for (const path of all.keys()) {
    if (
      !path.startsWith('src/') ||
      isTest(path) ||
      reached.has(path) ||
      entries.includes(path.slice(4)) ||
      path.endsWith('-worker.ts')
    )
      continue;
    if (!entries.includes(path)) complaints.push(`${path}: nothing imports it`);
  }
}

/** What a page loads must load there: from src/web on, nothing names Node or a package. */
function checkBrowser(all: Map<string, string>): void {
  const seen = new Set([...all.keys()].filter(path => path.startsWith('src/web/') && !isTest(path)));
  for (const path of seen) {
    for (const name of runtimeImports(path, all.get(path) ?? '')) {
      if (!name.startsWith('.')) complaints.push(`${path}: a page reaches it, so it may not import ${name}`);
      else seen.add(relative('.', join(dirname(path), name)));
    }
  }
}

/** Modules that are still imported once types are gone. */
function runtimeImports(path: string, text: string): string[] {
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  return source.statements.flatMap(statement => {
    if (!ts.isImportDeclaration(statement) && !ts.isExportDeclaration(statement)) return [];
    const typeOnly = ts.isImportDeclaration(statement)
      ? statement.importClause?.phaseModifier === ts.SyntaxKind.TypeKeyword
      : statement.isTypeOnly;
    const from = statement.moduleSpecifier;
    return typeOnly || from === undefined || !ts.isStringLiteral(from) ? [] : [from.text];
  });
}

checkOrder();
const all = new Map<string, string>();
for (const folder of ['src', 'tools', 'bench', 'test', 'examples'])
  for (const path of sources(folder)) all.set(path, readFileSync(path, 'utf8'));
for (const [path, text] of all) {
  if (path.startsWith('src/')) checkImports(path, text);
  checkSizes(path, text);
}
checkReached(all);
checkBrowser(all);
for (const complaint of complaints) console.error(complaint);
console.log(`tidy: ${all.size} files, ${complaints.length} complaints`);
process.exitCode = complaints.length === 0 ? 0 : 1;
