import { type FuncType, type FunctionIndex, I32, I64, ModuleBuilder } from '../../wasm/encoder.ts';
import type { Format } from '../instruction.ts';
import { INSTRUCTIONS } from '../instructions.ts';
import { discover, type Fetch, type IsElsewhere } from './discover.ts';
import { analyze } from './registers.ts';
import { REGION_TYPE } from './signature.ts';
import { splitBlocks } from './split.ts';
import { straighten } from './straighten.ts';
import { type Imported, type RegionPlan, writeRegion } from './writer.ts';

const FILL = { params: [I32, I32, I64, I32, I32], results: [I32] } as const;
/** What becomes a region: its code, or undefined when nothing at `heads` can be translated. */
export function planRegion(
  fetch: Fetch,
  heads: readonly number[],
  isElsewhere?: IsElsewhere,
): RegionPlan | undefined {
  const found = discover(fetch, heads, isElsewhere);
  if (found.instructions === 0 || found.entries.length === 0) return undefined;
  const { d, g } = splitBlocks(straighten(found));
  const isHeader = (block: number): boolean => g.isLoop[g.firstBlock + block] !== 0;
  const r = analyze(d, isHeader, block => g.depth[g.firstBlock + block]!);
  return { d, g, r };
}

/** `watched`: a test is told of each store. */
export type BatchOptions = { shared: boolean; watched: boolean } & Pick<Imported, 'fused'>;

/** Several regions as one module, since a module costs as much as a hundred instructions. Exports r0, r1 ... */
export function writeBatch(plans: readonly RegionPlan[], { shared, watched, fused }: BatchOptions) {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', { shared, maximum: 65536 });
  const imported = new Map<string, FunctionIndex>();
  for (const name of ['fillRead', 'fillWrite']) imported.set(name, m.importFunction('env', name, FILL));
  for (const { name, shape } of calledBy(plans)) imported.set(name, m.importFunction('env', name, shape));
  const willWrite = watched
    ? m.importFunction('env', 'willWrite', { params: [I32, I32], results: [] })
    : undefined;
  const indexOf = (name: string): FunctionIndex => {
    const index = imported.get(name);
    if (index === undefined) throw new Error(`a region calls ${name}, which nothing exports`);
    return index;
  };
  for (const [i, plan] of plans.entries()) {
    m.define(`r${i}`, REGION_TYPE, c => writeRegion(c, plan, { imported: indexOf, fused, willWrite }));
  }
  return m.finish();
}

type Callee = { readonly name: string; readonly shape: FuncType };

/** By row: what of the core module an instruction calls. */
const CALLEES: readonly (Callee | undefined)[] = INSTRUCTIONS.map(({ name, format }) => {
  return isFloat(name, format) ? { name: floatName(name), shape: floatShape(format) } : undefined;
});

function calledBy(plans: readonly RegionPlan[]): Set<Callee> {
  const called = new Set<Callee>();
  for (const { d } of plans) {
    for (const b of d.blocks) {
      for (const s of b.steps) {
        const callee = CALLEES[s.row];
        if (callee !== undefined) called.add(callee);
      }
    }
  }
  return called;
}

function isFloat(name: string, { rd, rs1, syntax }: Format): boolean {
  return (rd === 'f' || rs1 === 'f') && !syntax.includes('mem') && !name.startsWith('fmv');
}

/** `float_add_d` for fadd.d: cpu/float's names, as the core module exports them. */
function floatName(name: string): string {
  return `float_${name.slice(1).replaceAll('.', '_')}`;
}

function floatShape({ rs2, rs3, imm }: Format): FuncType {
  const operands = [rs2, rs3].filter(r => r !== undefined).map(() => I64);
  return { params: [I32, I64, ...operands, ...(imm === 'rm' ? [I32] : [])], results: [I64] } as FuncType;
}
