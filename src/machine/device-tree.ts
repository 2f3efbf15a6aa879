import { assert } from '../base/assert.ts';
import type { Gpa } from '../base/units.ts';
import { cells64, DeviceTree } from '../devices/fdt.ts';
import { PLIC_SOURCES } from '../devices/plic.ts';
import * as map from './memory-map.ts';

// The board as a device tree: what the kernel is told of memory-map.ts and of what board.ts wires up.

export type DeviceTreeOptions = {
  readonly memoryBytes: number;
  /** 1 unless told. */
  readonly harts?: number;
  readonly bootargs?: string;
  /** Physical, `end` exclusive. */
  readonly initrd?: { readonly start: Gpa; readonly end: Gpa };
  /** Gives the guest's random generator a start; 32 bytes or more. */
  readonly rngSeed?: Uint8Array;
};

const PLIC_PHANDLE = 1;
/** Plus the hart id. */
const INTC_PHANDLE = 0x10;
const PLIC_LENGTH = 0x60_0000;
const EXTENSIONS = ['i', 'm', 'a', 'f', 'd', 'c', 'zicntr', 'zicsr', 'zifencei'] as const;
/** Causes of mip that the PLIC's two contexts raise: MEIP and SEIP. */
const EXTERNAL_CAUSES = [11, 9] as const;
/** Space codes of a PCI range (IEEE 1275 PCI binding): I/O, 32-bit memory, 64-bit memory. */
const RangeSpace = { Io: 0x0100_0000, Mem32: 0x0200_0000, Mem64: 0x0300_0000 } as const;

/** The flattened tree, for the guest's a1. */
export function buildDeviceTree(options: DeviceTreeOptions): Uint8Array {
  assert(options.memoryBytes <= map.RAM_BYTES_MAX, 'device tree: RAM ends below the PCI windows');
  const harts = options.harts ?? 1;
  const root = new DeviceTree();
  root.set('#address-cells', [2]).set('#size-cells', [2]);
  root.set('compatible', 'riscv-virtio').set('model', 'faultline,board');
  addChosen(root.node('chosen'), options);
  addMemory(root, options.memoryBytes);
  addCpus(root.node('cpus'), harts);
  const soc = root.node('soc');
  soc.set('#address-cells', [2]).set('#size-cells', [2]).set('compatible', 'simple-bus').set('ranges');
  addPlic(soc, harts);
  addUart(soc);
  addRtc(soc);
  addPci(soc);
  return root.flatten();
}

function unit(name: string, address: number): string {
  return `${name}@${address.toString(16)}`;
}

function reg(base: number, length: number): number[] {
  return [...cells64(base), ...cells64(length)];
}

function addChosen(chosen: DeviceTree, options: DeviceTreeOptions): void {
  chosen.set('stdout-path', `/soc/${unit('serial', map.UART_BASE)}`);
  if (options.bootargs !== undefined) chosen.set('bootargs', options.bootargs);
  if (options.initrd !== undefined) {
    chosen.set('linux,initrd-start', cells64(options.initrd.start));
    chosen.set('linux,initrd-end', cells64(options.initrd.end));
  }
  if (options.rngSeed !== undefined) chosen.set('rng-seed', options.rngSeed);
}

function addMemory(root: DeviceTree, bytes: number): void {
  const memory = root.node(unit('memory', map.RAM_BASE));
  memory.set('device_type', 'memory').set('reg', reg(map.RAM_BASE, bytes));
}

function addCpus(cpus: DeviceTree, harts: number): void {
  cpus.set('#address-cells', [1]).set('#size-cells', [0]).set('timebase-frequency', [map.TIMEBASE_HZ]);
  for (let hart = 0; hart < harts; hart++) {
    const cpu = cpus.node(unit('cpu', hart));
    cpu.set('device_type', 'cpu').set('reg', [hart]).set('compatible', 'riscv').set('status', 'okay');
    cpu.set('riscv,isa', 'rv64imafdc_zicntr_zicsr_zifencei');
    cpu.set('riscv,isa-base', 'rv64i').set('riscv,isa-extensions', EXTENSIONS);
    cpu.set('mmu-type', 'riscv,sv39');
    const intc = cpu.node('interrupt-controller');
    intc
      .set('#address-cells', [0])
      .set('#interrupt-cells', [1])
      .set('interrupt-controller')
      .set('compatible', 'riscv,cpu-intc');
    intc.set('phandle', [INTC_PHANDLE + hart]);
  }
}

function addPlic(soc: DeviceTree, harts: number): void {
  const plic = soc.node(unit('plic', map.PLIC_BASE));
  plic.set('compatible', ['sifive,plic-1.0.0', 'riscv,plic0']).set('reg', reg(map.PLIC_BASE, PLIC_LENGTH));
  plic.set('#interrupt-cells', [1]).set('#address-cells', [0]).set('interrupt-controller');
  plic.set('riscv,ndev', [PLIC_SOURCES - 1]);
  const contexts: number[] = [];
  for (let hart = 0; hart < harts; hart++) {
    for (const cause of EXTERNAL_CAUSES) contexts.push(INTC_PHANDLE + hart, cause);
  }
  plic.set('interrupts-extended', contexts).set('phandle', [PLIC_PHANDLE]);
}

function addUart(soc: DeviceTree): void {
  const uart = soc.node(unit('serial', map.UART_BASE));
  uart.set('compatible', 'ns16550a').set('reg', reg(map.UART_BASE, map.UART_LENGTH));
  uart.set('clock-frequency', [map.UART_CLOCK_HZ]);
  uart.set('interrupt-parent', [PLIC_PHANDLE]).set('interrupts', [map.UART_IRQ]);
}

function addRtc(soc: DeviceTree): void {
  const rtc = soc.node(unit('rtc', map.RTC_BASE));
  rtc.set('compatible', 'google,goldfish-rtc').set('reg', reg(map.RTC_BASE, 0x1000));
  rtc.set('interrupt-parent', [PLIC_PHANDLE]).set('interrupts', [map.RTC_IRQ]);
}

function addPci(soc: DeviceTree): void {
  const pci = soc.node(unit('pci', map.PCI_ECAM_BASE));
  pci.set('compatible', 'pci-host-ecam-generic').set('device_type', 'pci').set('dma-coherent');
  pci.set('reg', reg(map.PCI_ECAM_BASE, map.PCI_ECAM_LENGTH));
  pci.set('#address-cells', [3]).set('#size-cells', [2]).set('#interrupt-cells', [1]);
  pci.set('linux,pci-domain', [0]).set('bus-range', [0, 0xff]);
  pci.set('ranges', [
    ...range(RangeSpace.Io, 0, map.PCI_IO_BASE, map.PCI_IO_LENGTH),
    ...range(RangeSpace.Mem32, map.PCI_MEM32_BASE, map.PCI_MEM32_BASE, map.PCI_MEM32_LENGTH),
    ...range(RangeSpace.Mem64, map.PCI_MEM64_BASE, map.PCI_MEM64_BASE, map.PCI_MEM64_LENGTH),
  ]);
  pci.set('interrupt-map-mask', [(map.PCI_IRQ_LINES - 1) << 11, 0, 0, 7]);
  pci.set('interrupt-map', interruptMap());
}

function range(space: number, bus: number, physical: number, length: number): number[] {
  return [space, ...cells64(bus), ...cells64(physical), ...cells64(length)];
}

/** Unit address (device in bits 11 to 15), pin, then controller and source: four devices by four pins. */
function interruptMap(): number[] {
  const cells: number[] = [];
  for (let device = 0; device < map.PCI_IRQ_LINES; device++) {
    for (let pin = 1; pin <= 4; pin++) {
      const source = map.PCI_IRQ_BASE + ((pin - 1 + device) % map.PCI_IRQ_LINES);
      cells.push(device << 11, 0, 0, pin, PLIC_PHANDLE, source);
    }
  }
  return cells;
}
