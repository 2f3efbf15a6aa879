import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { CODE_AT } from './code-cache.ts';
import { SLOT_BYTES } from './decoded.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, RAM_BASE } from './testing.ts';

// The decoder in wasm is that of decoder.ts. A machine without it is the other twin.

const PAGES = 3;
const decoding = compileInterpreter(false);
const asking = compileInterpreter(false, false);

/** Instructions of every kind with operands of every kind, compressed ones, and what is none. */
function code(random: Random): Uint16Array {
  const halves: number[] = [];
  while (halves.length < PAGES * 2048) {
    const row = random.pick(INSTRUCTIONS);
    const word = row.match | (random.u32() & ~row.mask);
    // What stands in for an instruction in the table is none in memory.
    if (random.oneIn(3) || (word & 3) !== 3) halves.push(random.u32() & 0xffff);
    // Few different ones, so that they are known when they come again, elsewhere.
    else if (random.oneIn(2) && halves.length > 100) halves.push(...halves.slice(random.below(90), 100));
    else halves.push(word & 0xffff, word >>> 16);
  }
  return Uint16Array.from(halves.slice(0, PAGES * 2048));
}

function decoded(module: WebAssembly.Module, seed: number): Int32Array {
  const random = new Random(seed);
  const m = new FlatMachine({ module, batch: 0 });
  m.poke(RAM_BASE, new Int32Array(code(random).buffer));
  for (let i = 0; i < 800; i++) {
    m.cpu.setPc(m.vcpu, RAM_BASE + 2 * random.below(PAGES * 2048));
    m.run(3);
  }
  const base = m.arena.words[m.code + CODE_AT.base]! / 4;
  return m.arena.words.slice(base, base + (PAGES * SLOT_BYTES) / 4);
}

test.each([1, 2, 3, 4, 5, 6, 7, 8])(
  'both decoders make the same records of the same places, seed %i',
  seed => {
    const ours = decoded(decoding, seed);
    expect(ours.filter(word => word !== 0).length).toBeGreaterThan(2000);
    expect(ours).toEqual(decoded(asking, seed));
  },
);
