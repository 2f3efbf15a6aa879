import { Bytes } from './bytes.ts';
import { Code } from './code.ts';

// Writes WebAssembly modules. The section numbers and encodings are those of the core specification,
// chapter 5 (binary format), with threads' shared memories.

export const I32 = 0x7f;
export const I64 = 0x7e;
export const F32 = 0x7d;
export const F64 = 0x7c;
export const V128 = 0x7b;
export type ValType = 0x7f | 0x7e | 0x7d | 0x7c | 0x7b;
export type FuncType = { params: readonly ValType[]; results: readonly ValType[] };

/** The memory a module imports; `maximum` is in 64 KiB pages. */
export type MemoryImport = { shared: boolean; maximum: number };
export type FunctionIndex = number;

type Definition = { type: number; body: Uint8Array; locals: readonly ValType[]; hints: Code['hints'] };

/**
 * Builds one module. Imports first, then functions; a function's index is known from `declare`, so
 * bodies may call forward.
 *
 *     const m = new ModuleBuilder();
 *     m.importMemory('env', 'memory', { shared: true, maximum: 65536 });
 *     const log = m.importFunction('env', 'log', { params: [I32], results: [] });
 *     m.define('run', { params: [I32], results: [I32] }, c => { c.get(0); c.call(log); c.i32(7); });
 *     const module = new WebAssembly.Module(m.finish());
 */
export class ModuleBuilder {
  readonly #types: FuncType[] = [];
  readonly #imports: { module: string; name: string; type: number }[] = [];
  readonly #definitions: (Definition | undefined)[] = [];
  readonly #declared: number[] = [];
  readonly #exports: { name: string; kind: number; index: number }[] = [];
  readonly #globals: { type: ValType; initial: number }[] = [];
  #table: { size: number; elements: FunctionIndex[] } | undefined;
  #importedTable: { module: string; name: string; minimum: number } | undefined;
  #memory: { module: string; name: string; limits: MemoryImport } | undefined;

  importMemory(module: string, name: string, limits: MemoryImport): void {
    this.#memory = { module, name, limits };
  }

  /** A table of functions for `callIndirect`, with at least `minimum` places. Instead of one's own. */
  importTable(module: string, name: string, minimum: number): void {
    this.#importedTable = { module, name, minimum };
  }

  importFunction(module: string, name: string, type: FuncType): FunctionIndex {
    if (this.#declared.length > 0) throw new Error('import before declaring functions');
    this.#imports.push({ module, name, type: this.typeIndex(type) });
    return this.#imports.length - 1;
  }

  /** A mutable i32/i64 global starting at `initial`. Returns its index. */
  global(type: ValType, initial: number): number {
    this.#globals.push({ type, initial });
    return this.#globals.length - 1;
  }

  /** A table for `call_indirect` that holds `elements` from slot 0. */
  table(elements: FunctionIndex[]): void {
    this.#table = { size: elements.length, elements };
  }

  /** Reserves a function index; `body` must follow. */
  declare(type: FuncType): FunctionIndex {
    this.#declared.push(this.typeIndex(type));
    this.#definitions.push(undefined);
    return this.#imports.length + this.#declared.length - 1;
  }

  /** Writes a declared function. */
  body(index: FunctionIndex, write: (code: Code) => void): void {
    const slot = index - this.#imports.length;
    const type = this.#declared[slot] as number;
    const code = new Code(this.#types[type]!.params.length, type => this.typeIndex(type));
    write(code);
    this.#definitions[slot] = { type, body: code.finish(), locals: code.locals, hints: code.hints };
  }

  /** Declares, exports when named, and writes. */
  define(name: string | undefined, type: FuncType, write: (code: Code) => void): FunctionIndex {
    const index = this.declare(type);
    if (name !== undefined) this.exportFunction(name, index);
    this.body(index, write);
    return index;
  }

  exportFunction(name: string, index: FunctionIndex): void {
    this.#exports.push({ name, kind: 0, index });
  }

  typeIndex(type: FuncType): number {
    const same = (t: FuncType) =>
      t.params.length === type.params.length &&
      t.results.length === type.results.length &&
      t.params.every((p, i) => p === type.params[i]) &&
      t.results.every((r, i) => r === type.results[i]);
    const found = this.#types.findIndex(same);
    return found >= 0 ? found : this.#types.push(type) - 1;
  }

  finish(): Uint8Array<ArrayBuffer> {
    const out = new Bytes();
    out.raw([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
    this.#section(out, 1, s => this.#writeTypes(s));
    this.#section(out, 2, s => this.#writeImports(s));
    this.#section(out, 3, s => s.vector(this.#declared, type => s.u32(type)));
    if (this.#table !== undefined) this.#section(out, 4, s => s.raw([1, 0x70, 0]).u32(this.#table!.size));
    if (this.#globals.length > 0) this.#section(out, 6, s => this.#writeGlobals(s));
    this.#section(out, 7, s => s.vector(this.#exports, e => s.name(e.name).byte(e.kind).u32(e.index)));
    if (this.#table !== undefined) this.#section(out, 9, s => this.#writeElements(s));
    this.#writeHints(out);
    this.#section(out, 10, s => this.#writeCode(s));
    return out.take();
  }

  #section(out: Bytes, id: number, write: (section: Bytes) => void): void {
    const section = new Bytes();
    write(section);
    const bytes = section.take();
    out.byte(id).u32(bytes.length).raw(bytes);
  }

  #writeTypes(s: Bytes): void {
    s.vector(this.#types, type => {
      s.byte(0x60);
      s.vector(type.params, p => s.byte(p));
      s.vector(type.results, r => s.byte(r));
    });
  }

  #writeImports(s: Bytes): void {
    const others = [this.#memory, this.#importedTable].filter(i => i !== undefined).length;
    s.u32(this.#imports.length + others);
    for (const f of this.#imports) s.name(f.module).name(f.name).byte(0).u32(f.type);
    const table = this.#importedTable;
    if (table !== undefined) s.name(table.module).name(table.name).raw([1, 0x70, 0]).u32(table.minimum);
    if (this.#memory === undefined) return;
    const { module, name, limits } = this.#memory;
    s.name(module)
      .name(name)
      .byte(2)
      .byte(limits.shared ? 3 : 1)
      .u32(0)
      .u32(limits.maximum);
  }

  #writeGlobals(s: Bytes): void {
    s.vector(this.#globals, g => {
      s.byte(g.type).byte(1);
      s.byte(g.type === I64 ? 0x42 : 0x41).signed(g.initial);
      s.byte(0x0b);
    });
  }

  #writeElements(s: Bytes): void {
    s.raw([1, 0, 0x41, 0, 0x0b]);
    s.vector(this.#table!.elements, index => s.u32(index));
  }

  /** The branch hinting proposal's custom section; engines that don't know it skip it. */
  #writeHints(out: Bytes): void {
    const hinted = this.#definitions
      .map((d, i) => ({ d, index: this.#imports.length + i }))
      .filter(x => x.d?.hints.length);
    if (hinted.length === 0) return;
    this.#section(out, 0, s => {
      s.name('metadata.code.branch_hint');
      s.vector(hinted, ({ d, index }) => {
        // Offsets count from the first byte of the function's locals vector.
        const locals = this.#localsOf(d!).length;
        s.u32(index);
        s.vector(d!.hints, hint =>
          s
            .u32(hint.at + locals)
            .byte(1)
            .byte(hint.likely ? 1 : 0),
        );
      });
    });
  }

  #localsOf(d: Definition): Uint8Array {
    const s = new Bytes();
    const runs: { type: ValType; count: number }[] = [];
    for (const type of d.locals) {
      const last = runs.at(-1);
      if (last?.type === type) last.count++;
      else runs.push({ type, count: 1 });
    }
    s.vector(runs, run => s.u32(run.count).byte(run.type));
    return s.take();
  }

  #writeCode(s: Bytes): void {
    s.vector(this.#definitions, definition => {
      if (definition === undefined) throw new Error('a declared function has no body');
      const locals = this.#localsOf(definition);
      s.u32(locals.length + definition.body.length)
        .raw(locals)
        .raw(definition.body);
    });
  }
}
