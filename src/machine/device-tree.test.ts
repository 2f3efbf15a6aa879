import { describe, expect, test } from 'vitest';
import { cellsOf, findNode, parseFdt, textsOf } from '../devices/fdt-reader.ts';
import { buildDeviceTree } from './device-tree.ts';

const tree = parseFdt(
  buildDeviceTree({
    memoryBytes: 5 * 2 ** 30,
    harts: 2,
    bootargs: 'console=ttyS0 quiet',
    initrd: { start: 0x1_8000_0000, end: 0x1_8000_1000 },
    rngSeed: new Uint8Array(32).fill(9),
  }),
);

describe('device tree of the board', () => {
  test('tells RAM, command line, initrd and seed', () => {
    expect(cellsOf(findNode(tree, '/memory@80000000')!, 'reg')).toEqual([0, 0x8000_0000, 1, 0x4000_0000]);
    const chosen = findNode(tree, '/chosen')!;
    expect(textsOf(chosen, 'bootargs')).toEqual(['console=ttyS0 quiet']);
    expect(cellsOf(chosen, 'linux,initrd-start')).toEqual([1, 0x8000_0000]);
    expect(cellsOf(chosen, 'linux,initrd-end')).toEqual([1, 0x8000_1000]);
    expect(chosen.properties.get('rng-seed')).toEqual(new Uint8Array(32).fill(9));
    const console = findNode(tree, textsOf(chosen, 'stdout-path')[0]!)!;
    expect(textsOf(console, 'compatible')).toEqual(['ns16550a']);
  });

  test('leaves out what there is none of', () => {
    const chosen = findNode(parseFdt(buildDeviceTree({ memoryBytes: 2 ** 28 })), '/chosen')!;
    expect([...chosen.properties.keys()]).toEqual(['stdout-path']);
  });

  test('gives each hart two contexts of the PLIC, by phandle', () => {
    const plic = findNode(tree, '/soc/plic@c000000')!;
    const intc = ['cpu@0', 'cpu@1'].map(name => findNode(tree, `/cpus/${name}/interrupt-controller`)!);
    const phandles = intc.map(node => cellsOf(node, 'phandle')[0]);
    expect(cellsOf(plic, 'interrupts-extended')).toEqual([
      phandles[0],
      11,
      phandles[0],
      9,
      phandles[1],
      11,
      phandles[1],
      9,
    ]);
  });

  test('routes pin p of device d to source 0x20 + (p - 1 + d) mod 4', () => {
    const pci = findNode(tree, '/soc/pci@30000000')!;
    const [plic] = cellsOf(findNode(tree, '/soc/plic@c000000')!, 'phandle');
    const map = cellsOf(pci, 'interrupt-map');
    expect([map.length, ...cellsOf(pci, 'interrupt-map-mask')]).toEqual([16 * 6, 0x1800, 0, 0, 7]);
    for (let at = 0; at < map.length; at += 6) {
      const [address, pin] = [map[at]!, map[at + 3]!];
      expect(map.slice(at + 4, at + 6)).toEqual([plic, 0x20 + ((pin - 1 + (address >>> 11)) % 4)]);
    }
    expect(new Set(map.filter((_, i) => i % 6 === 0)).size).toBe(4);
  });

  test('gives PCI its three windows', () => {
    const pci = findNode(tree, '/soc/pci@30000000')!;
    expect(cellsOf(pci, 'reg')).toEqual([0, 0x3000_0000, 0, 0x1000_0000]);
    expect(cellsOf(pci, 'ranges')).toEqual([
      ...[0x0100_0000, 0, 0, 0, 0x0300_0000, 0, 0x1_0000],
      ...[0x0200_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0, 0x4000_0000],
      ...[0x0300_0000, 4, 0, 4, 0, 4, 0],
    ]);
  });
});
