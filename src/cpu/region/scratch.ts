import type { Code } from '../../wasm/code.ts';
import type { ValType } from '../../wasm/encoder.ts';

/** Locals for the use of one instruction at a time. */
export class Scratch {
  readonly #c: Code;
  readonly #pools = new Map<ValType, { locals: number[]; used: number }>();

  constructor(c: Code) {
    this.#c = c;
  }

  /** The next instruction begins. */
  reset(): void {
    for (const pool of this.#pools.values()) pool.used = 0;
  }

  take(type: ValType): number {
    const pool = this.#pools.get(type) ?? { locals: [], used: 0 };
    this.#pools.set(type, pool);
    if (pool.used === pool.locals.length) pool.locals.push(this.#c.local(type));
    return pool.locals[pool.used++]!;
  }
}
