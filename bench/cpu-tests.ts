/** bench.c's tests: of the processor, of memory, of the kernel's paths. */
export const TESTS = [
  ...['intmix', 'matmul', 'div64', 'fib', 'sha256', 'mandel'],
  ...['chase16k', 'chase256k', 'chase64m', 'memcpy', 'memset', 'wordcopy', 'wordsum'],
  ...['syscall', 'pgfault', 'mprot', 'fork', 'pipe'],
];
