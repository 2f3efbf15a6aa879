import { expect, test } from 'vitest';
import { Exit } from '../interface.ts';
import { compileInterpreter } from '../interpreter.ts';
import { FlatMachine } from '../testing.ts';

const module = compileInterpreter(false, true, 2);

test('what is hot becomes a region, though places that are lukewarm take all the room for counting', () => {
  const m = new FlatMachine({ module });
  const lukewarm = Array.from({ length: 1100 }, (_, i) => `li t0, 8\nl${i}: addi t0, t0, -1\nbnez t0, l${i}`);
  m.program(
    `${lukewarm.join('\n')}\nli s0, 40000\nhot: addi a0, a0, 1\naddi s0, s0, -1\nbnez s0, hot\necall`,
  );
  for (let exit: Exit = Exit.Budget; exit === Exit.Budget; ) exit = m.run(100_000);
  expect(m.x(10)).toBe(40_000n);
  expect(m.cpu.translated(m.code).regions).toBe(1);
});
