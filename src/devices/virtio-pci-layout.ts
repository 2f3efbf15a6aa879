import type { BarSpec, Capability, PciIdentity } from './pci.ts';
import type { VirtioModel } from './virtio.ts';

// Where a virtio function keeps its registers: one BAR of a page for each of the four regions, and the
// vendor capabilities that say so (virtio 1.2, 4.1.4).

const VENDOR = 0x1af4;
/** 4.1.2: plus the device id. */
const DEVICE_BASE = 0x1040;
const CAP_VENDOR = 0x09;

/** Offsets in the BAR. */
export const VirtioRegion = { Common: 0x0000, Isr: 0x1000, Device: 0x2000, Notify: 0x3000 } as const;
const REGION_BYTES = 0x1000;
export const VIRTIO_BAR: BarSpec = { index: 0, length: 0x4000, width: 32, prefetchable: false };
/** A notification register is four bytes, at four times the queue's number. */
const NOTIFY_MULTIPLIER = 4;

/** `cfg_type` of struct virtio_pci_cap. */
const CapType = { Common: 1, Notify: 2, Isr: 3, Device: 4, Pci: 5 } as const;
const CAP_BYTES = 16;
/** Where the PCI access capability has its data, from its id on. */
export const CFG_DATA = 16;

function capability(type: number, offset: number, length: number, extra = 0): Uint8Array {
  const bytes = new Uint8Array(CAP_BYTES + extra);
  const view = new DataView(bytes.buffer);
  bytes[0] = CAP_VENDOR;
  bytes[2] = bytes.length;
  bytes[3] = type;
  bytes[4] = VIRTIO_BAR.index;
  view.setUint32(8, offset, true);
  view.setUint32(12, length, true);
  return bytes;
}

function notifyCapability(): Uint8Array {
  const bytes = capability(CapType.Notify, VirtioRegion.Notify, REGION_BYTES, 4);
  new DataView(bytes.buffer).setUint32(16, NOTIFY_MULTIPLIER, true);
  return bytes;
}

/** BAR, offset, length and data are the guest's to write. */
function accessCapability(): Capability {
  const bytes = capability(CapType.Pci, 0, 0, 4);
  const writable = new Uint8Array(bytes.length);
  writable[4] = 0xff;
  writable.fill(0xff, 8);
  return { bytes, writable };
}

/** The PCI header of a virtio device; the access capability comes last. */
export function virtioIdentity(model: VirtioModel): PciIdentity {
  return {
    vendor: VENDOR,
    device: DEVICE_BASE + model.deviceId,
    // 4.1.2.1: 1 or higher means there is no legacy interface.
    revision: 1,
    classCode: model.classCode,
    subsystemVendor: VENDOR,
    // 4.1.2.1: 0x40 or higher for a device without the legacy interface.
    subsystem: 0x1100,
    interruptPin: 1,
    bars: [VIRTIO_BAR],
    capabilities: [
      { bytes: capability(CapType.Common, VirtioRegion.Common, 0x38) },
      { bytes: notifyCapability() },
      { bytes: capability(CapType.Isr, VirtioRegion.Isr, 1) },
      { bytes: capability(CapType.Device, VirtioRegion.Device, REGION_BYTES) },
      accessCapability(),
    ],
  };
}
