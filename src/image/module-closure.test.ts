import { expect, test } from 'vitest';
import { buildElf } from './elf.fixture.ts';
import { type ModuleSource, moduleClosure } from './module-closure.ts';

/** Modules by their .modinfo strings. */
function source(modules: Record<string, string[]>, builtin: string[] = []): ModuleSource {
  return {
    names: new Set(Object.keys(modules)),
    builtin: new Set(builtin),
    async read(name) {
      const text = modules[name]!.map(pair => `${pair}\0`).join('');
      return buildElf([{ name: '.modinfo', data: new TextEncoder().encode(text) }]);
    },
  };
}

const order = async (from: ModuleSource, ...wanted: string[]) =>
  (await moduleClosure(from, wanted)).map(m => m.name);

test('what a module needs is loaded before it, each once', async () => {
  const from = source({ a: ['depends=b,c'], b: ['depends=d'], c: ['depends=d'], d: [] });
  expect(await order(from, 'a', 'c')).toEqual(['d', 'b', 'c', 'a']);
});

test('a soft dependency by alias finds the module that provides it', async () => {
  const from = source({
    ext4: ['softdep=pre: crypto-crc32c'],
    crc32c_generic: ['alias=crypto-crc32c', 'alias=crc32c'],
    crc32c_other: ['alias=another'],
  });
  expect(await order(from, 'ext4')).toEqual(['crc32c_generic', 'ext4']);
});

test('a soft dependency on nothing, and what is built in, are passed over', async () => {
  const from = source({ a: ['depends=core', 'softdep=pre: crypto-none'] }, ['core']);
  expect(await order(from, 'a')).toEqual(['a']);
});

test('a circle of soft dependencies ends', async () => {
  const from = source({ a: ['softdep=pre: b'], b: ['softdep=pre: a'] });
  expect(await order(from, 'a')).toEqual(['b', 'a']);
});

test('a module that the kernel lacks is said by name', async () => {
  await expect(order(source({ a: ['depends=gone'] }), 'a')).rejects.toMatchObject({
    code: 'E_NOT_AN_IMAGE',
    message: 'the kernel package has no module gone',
  });
});
