/** `faultline/kvm`: memslots, the secondary MMU and vCPUs over an mm. See README.md here. */
export { Access, Miss } from '../cpu/interface.ts';
export { type KvmBreaks, NO_BREAKS } from './breaks.ts';
export { checkVm } from './check.ts';
export { VmMemory } from './guest-memory.ts';
export { Kvm } from './kvm.ts';
export { ADDRESS_SPACES, MAX_SLOTS, MAX_VCPUS, Protocol, SlotFlag, Spte } from './layout.ts';
export type { MemoryRegion } from './memslots.ts';
export { type NotifierRegistry, type VmOptions, Vms } from './vm.ts';
