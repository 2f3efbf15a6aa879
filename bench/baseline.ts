import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Time of one operation; the program says in what unit. */
export type Figure = { p10: number; p50: number };
export type Figures = Record<string, Figure>;

/** Builds bench/kernel/NAME.c in `folder`; undefined where there is no compiler, or another processor. */
export function buildBaseline(folder: string, name: string): string | undefined {
  const program = join(folder, name);
  const source = fileURLToPath(new URL(`./kernel/${name}.c`, import.meta.url));
  try {
    execFileSync('gcc', ['-O2', '-o', program, source], { stdio: 'pipe' });
    return program;
  } catch {
    return undefined;
  }
}

/** Runs it: by name, p10 and p50; the last line of a name counts. */
export function runBaseline(program: string): Figures {
  const figures: Figures = {};
  for (const line of execFileSync(program, { encoding: 'utf8' }).trim().split('\n')) {
    const [name, p10, p50] = line.split('\t');
    figures[name!] = { p10: Number(p10), p50: Number(p50) };
  }
  return figures;
}
