import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DeviceTree } from './fdt.ts';
import { cellsOf, type FdtNode, findNode, parseFdt, textsOf } from './fdt-reader.ts';

function sample(): Uint8Array {
  const root = new DeviceTree();
  root.set('#address-cells', [2]).set('compatible', ['a,b', 'c']).set('flag');
  const bus = root.node('bus@1000');
  bus.set('reg', [0, 0x1000, 0xffff_ffff]).set('raw', Uint8Array.of(1, 2, 3));
  bus.node('child').set('compatible', 'x');
  root.node('last');
  return root.flatten({ bootHart: 3 });
}

describe('flattened device tree', () => {
  test('reads back as it was built', () => {
    const root = parseFdt(sample());
    expect([...root.properties.keys()]).toEqual(['#address-cells', 'compatible', 'flag']);
    expect(textsOf(root, 'compatible')).toEqual(['a,b', 'c']);
    expect(root.properties.get('flag')).toEqual(new Uint8Array(0));
    const bus = findNode(root, '/bus@1000')!;
    expect(cellsOf(bus, 'reg')).toEqual([0, 0x1000, 0xffff_ffff]);
    expect(bus.properties.get('raw')).toEqual(Uint8Array.of(1, 2, 3));
    expect(textsOf(findNode(root, '/bus@1000/child')!, 'compatible')).toEqual(['x']);
    expect(root.children.map(child => child.name)).toEqual(['bus@1000', 'last']);
    expect(findNode(root, '/nowhere/at/all')).toBeUndefined();
  });

  test('the header is version 17 and describes its blocks', () => {
    const blob = sample();
    const view = new DataView(blob.buffer);
    const words = Array.from({ length: 10 }, (_, i) => view.getUint32(i * 4));
    expect(words.slice(0, 2)).toEqual([0xd00dfeed, blob.length]);
    expect(words.slice(4, 8)).toEqual([40, 17, 16, 3]);
    expect(words[3]).toBe(words[2]! + words[9]!);
    expect(words[3]! + words[8]!).toBeLessThanOrEqual(blob.length);
  });

  test('equal names are stored once', () => {
    const root = new DeviceTree();
    for (let i = 0; i < 10; i++) root.node(`n${i}`).set('a-rather-long-property-name', [i]);
    const view = new DataView(root.flatten().buffer);
    expect(view.getUint32(32)).toBe('a-rather-long-property-name'.length + 1);
  });

  test('every truncation is refused', () => {
    const blob = sample();
    for (let length = 0; length < blob.length; length++) {
      expect(() => parseFdt(blob.slice(0, length))).toThrow('EINVAL');
    }
  });

  test('a tree that is damaged parses or is refused, and never else', () => {
    const damage = fc.array(fc.record({ at: fc.nat(sample().length - 1), to: fc.nat(255) }), {
      minLength: 1,
      maxLength: 6,
    });
    fc.assert(
      fc.property(damage, changes => {
        const blob = sample();
        for (const { at, to } of changes) blob[at] = to;
        try {
          expect(count(parseFdt(blob))).toBeGreaterThan(0);
        } catch (error) {
          expect((error as { code?: string }).code).toBe('EINVAL');
        }
      }),
      { seed: 17, numRuns: 3000 },
    );
  });

  test('a tree deeper than any is refused', () => {
    const root = new DeviceTree();
    let node = root;
    for (let i = 0; i < 70; i++) node = node.node('n');
    expect(() => parseFdt(root.flatten())).toThrow('too deep');
  });
});

function count(node: FdtNode): number {
  return 1 + node.children.reduce((sum, child) => sum + count(child), 0);
}
