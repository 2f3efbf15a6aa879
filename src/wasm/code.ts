import { Bytes } from './bytes.ts';
import type { FuncType, ValType } from './encoder.ts';
import { LANE, MEMORY, PLAIN } from './opcodes.ts';

export type PlainOp = keyof typeof PLAIN;
export type MemoryOp = keyof typeof MEMORY;
export type LaneOp = keyof typeof LANE;
/** What a block yields: nothing, or one value. */
export type BlockType = ValType | undefined;
/** A block that `br` can name. */
export type Label = number & { readonly __label: true };

const VOID = 0x40;

/**
 * A function body under construction. Structured instructions take a callback for their inside, and
 * branches name the block they leave, so nobody counts nesting depth.
 */
export class Code {
  readonly #out = new Bytes();
  readonly #params: number;
  readonly #typeIndex: (type: FuncType) => number;
  readonly locals: ValType[] = [];
  /** Offsets of hinted branches from the first instruction. */
  readonly hints: { at: number; likely: boolean }[] = [];
  #depth = 0;

  constructor(params: number, typeIndex: (type: FuncType) => number) {
    this.#params = params;
    this.#typeIndex = typeIndex;
  }

  /** A new local. Locals are numbered after the parameters. */
  local(type: ValType): number {
    this.locals.push(type);
    return this.#params + this.locals.length - 1;
  }

  get(local: number): this {
    this.#out.byte(0x20).u32(local);
    return this;
  }

  set(local: number): this {
    this.#out.byte(0x21).u32(local);
    return this;
  }

  tee(local: number): this {
    this.#out.byte(0x22).u32(local);
    return this;
  }

  globalGet(index: number): this {
    this.#out.byte(0x23).u32(index);
    return this;
  }

  globalSet(index: number): this {
    this.#out.byte(0x24).u32(index);
    return this;
  }

  i32(value: number): this {
    this.#out.byte(0x41).signed(value | 0);
    return this;
  }

  /** An i64 constant from a safe integer. */
  i64(value: number): this {
    this.#out.byte(0x42).signed(value);
    return this;
  }

  /** An i64 constant from its two words. */
  i64w(low: number, high: number): this {
    this.#out.byte(0x42).signed64(low, high);
    return this;
  }

  f64(value: number): this {
    const bytes = new Uint8Array(new Float64Array([value]).buffer);
    this.#out.byte(0x44).raw(bytes);
    return this;
  }

  f32(value: number): this {
    const bytes = new Uint8Array(new Float32Array([value]).buffer);
    this.#out.byte(0x43).raw(bytes);
    return this;
  }

  /** Instructions without immediates, in order. */
  op(...names: PlainOp[]): this {
    for (const name of names) this.#opcode(PLAIN[name]);
    return this;
  }

  /** A load, store or atomic at a constant `offset` from the address on the stack. */
  mem(name: MemoryOp, offset = 0, align?: number): this {
    const [opcode, natural] = MEMORY[name];
    this.#opcode(opcode);
    // Guest addresses are not known to be aligned; the hint 0 is always true. Atomics demand natural.
    const atomic = Math.floor(opcode / 0x10000) === 0xfe;
    this.#out.u32(align ?? (atomic ? natural : 0)).u32(offset);
    return this;
  }

  memoryFill(): this {
    this.#opcode(0xfc * 0x10000 + 11);
    this.#out.byte(0);
    return this;
  }

  memoryCopy(): this {
    this.#opcode(0xfc * 0x10000 + 10);
    this.#out.raw([0, 0]);
    return this;
  }

  atomicFence(): this {
    this.#opcode(0xfe * 0x10000 + 3);
    this.#out.byte(0);
    return this;
  }

  laneExtract64(lane: number): this {
    this.#opcode(0xfd * 0x10000 + 29);
    this.#out.byte(lane);
    return this;
  }

  /** Reads or replaces one lane of a vector. */
  lane(name: LaneOp, lane: number): this {
    this.#opcode(LANE[name]);
    this.#out.byte(lane);
    return this;
  }

  /** A vector constant from its four words, the lowest first. */
  v128(words: readonly [number, number, number, number]): this {
    this.#opcode(0xfd * 0x10000 + 12);
    this.#out.raw(new Uint8Array(new Int32Array(words).buffer));
    return this;
  }

  call(index: number): this {
    this.#out.byte(0x10).u32(index);
    return this;
  }

  /** Calls in tail position: the frame is gone before the callee starts. */
  returnCall(index: number): this {
    this.#out.byte(0x12).u32(index);
    return this;
  }

  callIndirect(type: FuncType): this {
    this.#out.byte(0x11).u32(this.#typeIndex(type)).u32(0);
    return this;
  }

  block(inside: (label: Label) => void, type?: BlockType): this {
    return this.#structured(0x02, inside, type);
  }

  /** `br` to the label repeats. */
  loop(inside: (label: Label) => void, type?: BlockType): this {
    return this.#structured(0x03, inside, type);
  }

  /** Takes an i32 condition. `likely` becomes a branch hint. */
  if(
    then: (label: Label) => void,
    otherwise?: (label: Label) => void,
    o: { type?: BlockType; likely?: boolean } = {},
  ): this {
    if (o.likely !== undefined) this.#hint(o.likely);
    this.#out.byte(0x04).byte(o.type ?? VOID);
    const label = ++this.#depth as Label;
    then(label);
    if (otherwise !== undefined) {
      this.#out.byte(0x05);
      otherwise(label);
    }
    return this.#end();
  }

  br(label: Label): this {
    this.#out.byte(0x0c).u32(this.#depth - label);
    return this;
  }

  brIf(label: Label, likely?: boolean): this {
    if (likely !== undefined) this.#hint(likely);
    this.#out.byte(0x0d).u32(this.#depth - label);
    return this;
  }

  brTable(labels: readonly Label[], otherwise: Label): this {
    this.#out.byte(0x0e).vector(labels, label => this.#out.u32(this.#depth - label));
    this.#out.u32(this.#depth - otherwise);
    return this;
  }

  /** Opens a block that `close` ends; for the long runs of blocks in front of a br_table. */
  open(type?: BlockType): Label {
    this.#out.byte(0x02).byte(type ?? VOID);
    return ++this.#depth as Label;
  }

  close(): this {
    return this.#end();
  }

  finish(): Uint8Array {
    if (this.#depth !== 0) throw new Error('a block was left open');
    this.#out.byte(0x0b);
    return this.#out.take();
  }

  #structured(opcode: number, inside: (label: Label) => void, type: BlockType): this {
    this.#out.byte(opcode).byte(type ?? VOID);
    inside(++this.#depth as Label);
    return this.#end();
  }

  #end(): this {
    this.#depth--;
    this.#out.byte(0x0b);
    return this;
  }

  #hint(likely: boolean): void {
    this.hints.push({ at: this.#out.length, likely });
  }

  #opcode(opcode: number): void {
    if (opcode < 0x100) this.#out.byte(opcode);
    else this.#out.byte(Math.floor(opcode / 0x10000)).u32(opcode % 0x10000);
  }
}
