// A hypervisor without a guest: its second page table follows a page that goes to swap and comes back.
import { Access, Kvm, Vms } from 'faultline/kvm';
import { Arena, createPageOps, initMm, Sync } from 'faultline/mm';

const PAGE = 4096;
const GUEST = 0x8000_0000;
const arena = Arena.create({ frames: 1024, heapBytes: 1 << 20, shared: false });
const sync = new Sync(arena);
const pageOps = createPageOps(arena.memory, arena.shared);
const core = initMm(sync, { pageOps, swap: { kind: 'zram', bytes: 256 * PAGE } });

// Guest RAM is sixteen pages of ordinary memory; a memslot says where the guest sees them.
const mm = core.createMm();
const hostAddress = core.mmap.map(mm, 16 * PAGE);
const kvm = new Kvm(sync, core, { dropCode() {} });
const vms = new Vms(kvm, core.notifiers);
const vm = vms.create({ mm });
kvm.memslots.set(vm, { slot: 0, guestAddress: GUEST, lengthBytes: 16 * PAGE, hostAddress });

// A fault of the guest: gfn to frame, through the mm, leaving an spte behind. Zero is no spte.
const gfn = GUEST / PAGE + 3;
const fault = (access: Access) => kvm.fault.resolve(vm, 0, gfn, access) * PAGE;
const spte = () => {
  const at = kvm.mmu.walk(vm, 0, gfn);
  return at === 0 || arena.words[at] === 0 ? 'none' : 'present';
};
console.log(`before:    spte ${spte()}`);
arena.bytes.set(new TextEncoder().encode('elastic'), fault(Access.Write));
console.log(`written:   spte ${spte()}`);

// The mm takes the page. The notifier zaps the spte first, and carries its dirty bit over.
core.madvise.advise(mm, hostAddress + 3 * PAGE, PAGE, 'pageout');
console.log(`paged out: spte ${spte()}, ${core.swap.slots.used} page in swap`);

const at = fault(Access.Read);
console.log(`read:      spte ${spte()}, '${new TextDecoder().decode(arena.bytes.slice(at, at + 7))}'`);

vms.destroy(vm);
core.exit(mm);
core.checkInvariants();
