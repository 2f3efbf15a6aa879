import type { Code, Label } from '../../wasm/code.ts';
import { AT } from '../vcpu.ts';
import { includes, minus, type RegisterSet, size } from './register-set.ts';

// The ways out of a region differ in which registers they write back. Each such set has one block behind
// the body; it writes what a smaller set's block doesn't, then goes on there, the last to the epilogue.

type Group = { readonly set: RegisterSet; parent: Group | undefined; label: Label };

/** The locals that hold guest registers. */
export type RegisterLocals = { readonly x: readonly number[]; readonly f: readonly number[] };

export class Exits {
  readonly #groups: Group[] = [];
  readonly #byKey = new Map<string, Group>();
  readonly #locals: RegisterLocals;

  constructor(locals: RegisterLocals) {
    this.#locals = locals;
  }

  /** Before `open`: there will be an exit that writes back `set`. */
  add(set: RegisterSet): void {
    const key = keyOf(set);
    if (this.#byKey.has(key)) return;
    const group = { set, parent: undefined, label: 0 as Label };
    this.#byKey.set(key, group);
    this.#groups.push(group);
  }

  /** Opens the blocks, the smallest set outermost. `body` follows, then `close`. */
  open(c: Code): void {
    this.#groups.sort((a, b) => size(a.set) - size(b.set));
    this.#groups.forEach((group, i) => {
      for (let j = i - 1; j >= 0 && group.parent === undefined; j--) {
        if (includes(group.set, this.#groups[j]!.set)) group.parent = this.#groups[j];
      }
      group.label = c.open();
    });
  }

  labelOf(set: RegisterSet): Label {
    const group = this.#byKey.get(keyOf(set));
    if (group === undefined) throw new Error('an exit was not announced');
    return group.label;
  }

  /** Ends the blocks; each writes its registers and goes to `epilogue`. */
  close(c: Code, epilogue: Label): void {
    for (let i = this.#groups.length - 1; i >= 0; i--) {
      c.close();
      const group = this.#groups[i]!;
      writeBack(c, this.#locals, minus(group.set, group.parent?.set ?? { x: 0, f: 0 }));
      c.br(group.parent?.label ?? epilogue);
    }
  }
}

const CPU = 0;

const keyOf = (set: RegisterSet): string => `${set.x} ${set.f}`;

function each(word: number, f: (n: number) => void): void {
  for (let w = word; w !== 0; w &= w - 1) f(31 - Math.clz32(w & -w));
}

/** Writes registers from their locals to the record. */
export function writeBack(c: Code, locals: RegisterLocals, set: RegisterSet): void {
  each(set.x, n => {
    c.get(CPU)
      .get(locals.x[n]!)
      .mem('i64_store', (AT.x + 2 * n) * 4);
  });
  each(set.f, n => {
    c.get(CPU)
      .get(locals.f[n]!)
      .mem('f64_store', (AT.f + 2 * n) * 4);
  });
}

/** Reads registers from the record into their locals. */
export function readIn(c: Code, locals: RegisterLocals, set: RegisterSet): void {
  each(set.x, n => {
    c.get(CPU)
      .mem('i64_load', (AT.x + 2 * n) * 4)
      .set(locals.x[n]!);
  });
  each(set.f, n => {
    c.get(CPU)
      .mem('f64_load', (AT.f + 2 * n) * 4)
      .set(locals.f[n]!);
  });
}
