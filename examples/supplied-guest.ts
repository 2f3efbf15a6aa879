// A Debian guest that owns no memory at first: every page of its RAM, kernel included, is asked for when the guest
// first comes to it, and supplied by the handler below. A store across the network would look the same.

import { Sandbox } from 'faultline';

let supplied = 0;
let empty = 0;

const vm = await Sandbox.create('tiny', {
  memory: '128M',
  userfault(fault, uffd) {
    // `fault.initial` is what belongs into the page of a guest that boots: its kernel, its initrd, or nothing.
    const page = fault.initial;
    if (page.some(byte => byte !== 0)) {
      uffd.copy(fault.address, page);
      supplied++;
    } else {
      uffd.zeropage(fault.address, page.length);
      empty++;
    }
  },
});

try {
  const { stdout } = await vm.commands.run('uname -sm; echo $((6 * 7))');
  process.stdout.write(stdout);
  const { userfaults } = vm.memory.stat();
  console.log(`all pages were asked for: ${userfaults >= supplied + empty && supplied > 1000}`);
} finally {
  await vm.kill();
}
