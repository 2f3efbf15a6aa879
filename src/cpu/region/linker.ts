import { assert } from '../../base/assert.ts';
import type { Arena } from '../../sync/arena.ts';
import type { CodeCache } from '../code-cache.ts';
import type { CodePtr } from '../vcpu.ts';
import { ENTRY_SIZE, entryStruct, MAX_REGIONS, REGION_WORDS, regionStruct } from './layout.ts';
import type { Lockstep } from './lockstep.ts';

/** What regions import: the core module's exports. */
export type RegionEnvironment = WebAssembly.ModuleImports & { unlinked: () => number };

/** Modules that were compiled ahead and are held. */
const AHEAD = 256;

export type Compile = (wasm: Uint8Array<ArrayBuffer>) => WebAssembly.Module;

type Range = { first: number; epoch: number; settled: number; readonly since: number };

/** So long a VM's regions are compiled to start soon, where the engine can be told: most guests have booted by then. */
const BOOT_MS = 4000;
/** A custom section without contents: the engine, which finds what it has compiled by the bytes, takes them for others. */
const SETTLED = Uint8Array.of(0, 2, 1, 's'.charCodeAt(0));

/** A thread's instances of regions: the function table that `run` calls by, a range of it for each VM. */
export class Linker {
  readonly table: WebAssembly.Table;
  readonly #bytes: Uint8Array;
  readonly #cache: CodeCache;
  readonly #entry;
  readonly #region;
  readonly #ranges = new Map<CodePtr, Range>();
  readonly #lockstep: Lockstep | undefined;
  readonly #compile: Compile | undefined;
  #environment: RegionEnvironment | undefined;
  readonly #ahead: WebAssembly.Module[] = [];

  /** `lockstep`: a test that compares each region with the interpreter. `compile`: for a VM that boots. */
  constructor(arena: Arena, cache: CodeCache, lockstep?: Lockstep, compile?: Compile) {
    this.#lockstep = lockstep;
    this.#compile = compile;
    this.table = new WebAssembly.Table({ element: 'anyfunc', initial: 1 });
    this.#bytes = arena.bytes;
    this.#cache = cache;
    this.#entry = entryStruct(arena.words);
    this.#region = regionStruct(arena.words);
  }

  /** The core module's exports exist only after its import of the table. */
  use(environment: RegionEnvironment): void {
    this.#environment = environment;
  }

  /** Index in the table of a VM's region 0, with whatever is not linked in this epoch, and as it should be, unlinked. */
  firstRegion(code: CodePtr): number {
    const fields = this.#cache.code;
    const [epoch, settled] = [fields.epoch.load(code), fields.settled.load(code)];
    const range = this.#ranges.get(code);
    if (range === undefined) return this.#addRange(code, epoch, settled);
    const isAnother = range.settled !== settled && this.#compile !== undefined;
    if (range.epoch !== epoch || isAnother) {
      this.#unlink(range.first);
      range.epoch = epoch;
      range.settled = settled;
    }
    return range.first;
  }

  #addRange(code: CodePtr, epoch: number, settled: number): number {
    const first = this.table.grow(MAX_REGIONS, this.#unlinked);
    this.#ranges.set(code, { first, epoch, settled, since: performance.now() });
    return first;
  }

  /** By a runner, now and then: what was compiled to start soon is linked anew, to be optimized, once the VM has run for long. */
  settle(code: CodePtr): void {
    const since = this.#ranges.get(code)?.since;
    if (since === undefined) return;
    if (performance.now() - since > BOOT_MS) this.#cache.code.settled.store(code, 1);
  }

  get #unlinked() {
    assert(this.#environment !== undefined, 'regions: no environment yet');
    return this.#environment.unlinked;
  }

  #unlink(first: number): void {
    for (let i = 0; i < MAX_REGIONS; i++) this.table.set(first + i, this.#unlinked);
  }

  /** The VM is gone. */
  forget(code: CodePtr): void {
    const range = this.#ranges.get(code);
    if (range !== undefined) this.#unlink(range.first);
    this.#ranges.delete(code);
  }

  /** Instantiates the batch that the region of entry `id` belongs to. */
  link(code: CodePtr, id: number): void {
    const entries = this.#cache.code.entries.get(code);
    const fn = this.#entry.fn.get((entries + (id * ENTRY_SIZE) / 4) as never);
    const region = (this.#cache.code.regions.get(code) + fn * REGION_WORDS) as never;
    const at = this.#region.module.get(region) * 4;
    // A copy: an engine won't compile what other threads might change.
    const bytes = this.#bytes.slice(at, at + this.#region.bytes.get(region));
    this.#install(code, this.#region.first.get(region), this.#region.count.get(region), bytes);
  }

  /**
   * Compiles a batch that another thread will link: the engine has one copy of the code for a process, found by the
   * bytes, as long as somebody holds it.
   */
  compileAhead(code: CodePtr, bytes: Uint8Array<ArrayBuffer>): void {
    this.#ahead.push(this.#module(code, bytes));
    if (this.#ahead.length > AHEAD) this.#ahead.shift();
  }

  /** Compiles a batch of `count` regions from number `first`. */
  #install(code: CodePtr, first: number, count: number, bytes: Uint8Array<ArrayBuffer>): void {
    const module = this.#module(code, bytes);
    const env = this.#environment as WebAssembly.ModuleImports;
    const { exports } = new WebAssembly.Instance(module, { env });
    const at = this.firstRegion(code) + first;
    for (let i = 0; i < count; i++) {
      const region = exports[`r${i}`];
      this.table.set(at + i, this.#lockstep?.wrap(region as never) ?? region);
    }
  }

  #module(code: CodePtr, bytes: Uint8Array<ArrayBuffer>): WebAssembly.Module {
    if (this.#compile === undefined) return new WebAssembly.Module(bytes);
    if (this.#cache.code.settled.load(code) === 0) return this.#compile(bytes);
    const settled = new Uint8Array(bytes.length + SETTLED.length);
    settled.set(bytes);
    settled.set(SETTLED, bytes.length);
    return new WebAssembly.Module(settled);
  }
}
