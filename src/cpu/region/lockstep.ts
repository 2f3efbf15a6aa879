import { assert } from '../../base/assert.ts';
import { ModuleBuilder } from '../../wasm/encoder.ts';
import { Exit } from '../interface.ts';
import { compileInterpreter } from '../interpreter.ts';
import { registerName } from '../registers.ts';
import { AT, VCPU_WORDS } from '../vcpu.ts';
import { WriteLog } from './lockstep-log.ts';
import { Leave, REGION_TYPE } from './signature.ts';

// A test's mode of the processor: whatever a region does, the interpreter does again from the same state, and
// both must have come to the same. The region runs on real memory with the places of its stores logged; they
// are put back, the interpreter executes as many instructions, and what it did is what counts.
//
// One vCPU at a time, in one thread, on memory that nobody takes back: a store is undone where it was made.

type Region = (cpu: number, label: number, base: number, slot: number, page: bigint) => number;

export type LockstepParts = {
  words: Int32Array;
  /** The interpreter alone. It returns where a region begins, unless the record's `step` is 1. */
  interpret(cpu: number): void;
};

/** Words of the record that both must agree on, by name: all that the guest sees, and what follows from it. */
const NAMES = listCompared();
const COMPARED = Int32Array.from(NAMES.keys());
/** Words that the interpreter's turn must leave as the region did. */
const OURS = [
  'leave',
  'exitGpa',
  'exitData',
  'exitBytes',
  'exitIsWrite',
  'mmioRd',
  'mmioExtend',
  'mmioLength',
];
const KEPT = [...OURS, 'budget', 'left', 'rest', 'unretired', 'step', 'ea', 'data'].flatMap(wordsOf);
const RESERVATION = new Set(['reservation', 'reservedValue', 'reservedBytes'].flatMap(wordsOf));
const MAX_REPORTED = 20;

/** Compares each run of a region with the interpreter. For one Cpu. */
export class Lockstep {
  /** What differed, in words; no more than the first few. */
  readonly reports: string[] = [];
  differences = 0;
  /** Runs of regions that were compared, the instructions that they retired, and the stores among these. */
  runs = 0;
  instructions = 0;
  stores = 0;
  readonly #hot: number;
  #parts: LockstepParts | undefined;
  #log: WriteLog | undefined;
  #trampoline: WebAssembly.Module | undefined;
  readonly #before = new Int32Array(VCPU_WORDS);
  readonly #after = new Int32Array(VCPU_WORDS);
  /** The interpreter has its turn: nothing is to be translated meanwhile. */
  #replays = false;
  #asked = false;

  /** `hot`: as of compileInterpreter; few, so that much is translated. */
  constructor(hot = 2) {
    this.#hot = hot;
  }

  /** The module that the Cpu needs: it tells of stores. Over memory that is not shared. */
  compile(): WebAssembly.Module {
    return compileInterpreter(false, true, this.#hot, true);
  }

  attach(parts: LockstepParts): void {
    assert(this.#parts === undefined, 'lockstep: for one Cpu');
    this.#parts = parts;
    this.#log = new WriteLog(parts.words);
  }

  get replays(): boolean {
    return this.#replays;
  }

  /** A page was asked for. A flush that was served with it may have ended the reservation. */
  asked(): void {
    this.#asked = true;
  }

  /** `bytes` at an arena byte address are about to be written. Of anyone; outside of a comparison it is nothing. */
  willWrite(at: number, bytes: number): void {
    this.#log?.add(at >>> 0, bytes);
  }

  /** What goes into the function table in a region's place. */
  wrap(region: Region): WebAssembly.ExportValue {
    this.#trampoline ??= trampoline();
    const f: Region = (cpu, label, base, slot, page) => this.#run(region, [cpu, label, base, slot, page]);
    return new WebAssembly.Instance(this.#trampoline, { env: { f } }).exports.f!;
  }

  #run(region: Region, args: Parameters<Region>): number {
    const { words } = this.#parts!;
    const log = this.#log!;
    const vcpu = args[0] >>> 2;
    this.#before.set(words.subarray(vcpu, vcpu + VCPU_WORDS));
    this.#asked = false;
    log.begin();
    const reason = region(...args);
    this.#after.set(words.subarray(vcpu, vcpu + VCPU_WORDS));
    if (reason === Leave.Unlinked) return reason;
    const retired = this.#before[AT.left]! - this.#after[AT.left]!;
    log.undo();
    this.#restore(vcpu);
    const exit = retired > 0 ? this.#replay(args[0], retired) : Exit.Budget;
    this.#compare(vcpu, retired, exit);
    for (const at of KEPT) words[vcpu + at] = this.#after[at]!;
    if (this.#asked) for (const at of RESERVATION) words[vcpu + at] = this.#after[at]!;
    log.end();
    return reason;
  }

  #restore(vcpu: number): void {
    const { words } = this.#parts!;
    for (const at of COMPARED) words[vcpu + at] = this.#before[at]!;
  }

  /** Interprets `count` instructions. Returns the exit, which is Budget unless something is amiss. */
  #replay(cpu: number, count: number): Exit {
    const { words, interpret } = this.#parts!;
    const vcpu = cpu >>> 2;
    const take = () => Atomics.exchange(words, vcpu + AT.requests, 0);
    let requests = take();
    this.#replays = true;
    words[vcpu + AT.budget] = count;
    words[vcpu + AT.left] = count;
    words[vcpu + AT.rest] = 0;
    do {
      words[vcpu + AT.leave] = 0;
      words[vcpu + AT.step] = 1;
      interpret(cpu);
      requests |= take();
    } while ([0, 1 + Exit.Request].includes(words[vcpu + AT.leave]!));
    this.#replays = false;
    if (requests !== 0) Atomics.or(words, vcpu + AT.requests, requests);
    return (words[vcpu + AT.leave]! - 1) as Exit;
  }

  #compare(vcpu: number, retired: number, exit: Exit): void {
    const { words } = this.#parts!;
    this.runs++;
    this.instructions += retired;
    this.stores += this.#log!.count;
    let what = retired < 0 ? `${retired} instructions retired; ` : '';
    if (exit !== Exit.Budget) what += `the interpreter leaves with exit ${exit}; `;
    for (const at of COMPARED) {
      const [ours, theirs] = [this.#after[at]!, words[vcpu + at]!];
      if (ours === theirs || (this.#asked && RESERVATION.has(at))) continue;
      what += `${NAMES.get(at)} ${hex(ours)}, not ${hex(theirs)}; `;
    }
    what += this.#log!.compare();
    if (what !== '') this.#report(retired, what);
  }

  #report(retired: number, what: string): void {
    this.differences++;
    if (this.reports.length >= MAX_REPORTED) return;
    const pc = hex(this.#before[AT.pc + 1]!) + hex(this.#before[AT.pc]!).padStart(8, '0');
    this.reports.push(`from pc ${pc}, ${retired} instructions: ${what}`);
  }
}

const hex = (word: number): string => (word >>> 0).toString(16);

function wordsOf(field: string): number[] {
  const offsets = AT as unknown as Record<string, number>;
  const at = offsets[field]!;
  return isWide(at) ? [at, at + 1] : [at];
}

/** Whether the field at `at` has a second word. */
function isWide(at: number): boolean {
  return at + 1 < VCPU_WORDS && !Object.values(AT).includes(at + 1);
}

function listCompared(): Map<number, string> {
  const list = new Map<number, string>();
  for (let n = 0; n < 32; n++) {
    for (const file of ['x', 'f'] as const) {
      const at = AT[file] + 2 * n;
      list.set(at, registerName(file, n)).set(at + 1, `${registerName(file, n)}'s high word`);
    }
  }
  for (const [name, at] of Object.entries(AT)) {
    // Others set `pending`.
    const isState = at >= AT.pc && at < AT.mode && name !== 'pending';
    if (!isState && name !== 'tlbBase' && name !== 'tlbBorrow') continue;
    list.set(at, name);
    if (isWide(at)) list.set(at + 1, `${name}'s high word`);
  }
  return list;
}

/** A module that gives back the function which it imports, as one that a table can hold. */
function trampoline(): WebAssembly.Module {
  const m = new ModuleBuilder();
  m.exportFunction('f', m.importFunction('env', 'f', REGION_TYPE));
  return new WebAssembly.Module(m.finish());
}
