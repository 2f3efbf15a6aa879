/**
 * What Debian's own command line comes to on this machine: the console, and no log on it.
 */
export const PRISTINE_COMMAND_LINE = 'console=ttyS0 quiet';

/** Boot-time work that a guest of ours has no use for, by the initcall's name. */
const INITCALL_BLACKLIST = [
  'jent_mod_init', // jitter entropy: the device tree carries a seed
  'load_system_certificate_list', // X.509 of module signatures, which nothing enforces
  'bpf_tcp_ca_kfunc_init', // BPF congestion control: reads all of the kernel's BTF
  'bpf_dummy_struct_ops_init', // BPF's self-test
  'kfunc_init', // BPF calls into the kernel by name
  'cpumask_kfunc_init',
  'trace_eval_init', // names of enumerators in trace events
  'init_kprobe_trace', // kprobe events in tracefs
  'crypto_kdf108_init', // self-test of a key derivation that only keyctl's Diffie-Hellman uses
  'init_encrypted', // the `encrypted` key type
  'slab_late_init', // names of slab caches in /sys/kernel/slab; /proc/slabinfo is another
  'blake2s_mod_init', // self-test alone
  'check_unaligned_access_all_cpus', // measures what is known: misaligned access is fast
] as const;

/**
 * The default: a quarter of the instructions of the pristine boot. What it costs the guest is in
 * src/image/README.md; `--pristine` or `--append` take it back.
 */
export const DEFAULT_COMMAND_LINE = [
  PRISTINE_COMMAND_LINE,
  'cryptomgr.notests',
  'init_on_alloc=0',
  'audit=0',
  'apparmor=0',
  'lsm=capability',
  `initcall_blacklist=${INITCALL_BLACKLIST.join(',')}`,
].join(' ');

/** Tells the agent which disk becomes the root, in both variants. */
export const ROOT_DISK = 'faultline.root=/dev/vda faultline.rootfstype=erofs';
