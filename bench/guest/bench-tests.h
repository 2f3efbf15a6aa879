/* The eighteen tests of bench.c: six of the processor, seven of memory, five of the kernel's paths. Each does `n` units
 * of work and adds what it computed to `sink`. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

static volatile u64 sink;

static void *map_memory(size_t bytes) {
  return mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* intmix: text from a xorshift, a CRC by table, a state machine that branches on each byte, an insertion sort. All of
 * it in 32 bits and in the first-level cache. */
static u32 crc_table[256];
static u8 text[4096];

static void fill_crc_table(void) {
  for (u32 i = 0; i < 256; i++) {
    u32 c = i;
    for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
    crc_table[i] = c;
  }
}

static inline int next_state(int state, u8 c) {
  switch (state) {
    case 0: return (c >= '0' && c <= '9') ? 1 : (c == '+' || c == '-') ? 2 : c == '.' ? 3 : 0;
    case 1: return c == '.' ? 3 : (c == 'e' || c == 'E') ? 4 : (c < '0' || c > '9') ? 0 : 1;
    case 2: return (c >= '0' && c <= '9') ? 1 : 5;
    case 3: return (c == 'e' || c == 'E') ? 4 : (c < '0' || c > '9') ? 0 : 3;
    case 4: return (c == '+' || c == '-') ? 2 : 5;
    default: return c == ',' ? 0 : 5;
  }
}

static inline void sort(int *a, int count) {
  for (int i = 1; i < count; i++) {
    int v = a[i], j = i - 1;
    for (; j >= 0 && a[j] > v; j--) a[j + 1] = a[j];
    a[j + 1] = v;
  }
}

static void test_intmix(u64 n) {
  if (crc_table[1] == 0) fill_crc_table();
  u32 s = 12345, sum = 0;
  int a[32];
  for (u64 round = 0; round < n; round++) {
    for (int i = 0; i < 256; i++) {
      s ^= s << 13;
      s ^= s >> 17;
      s ^= s << 5;
      text[i] = "0123456789+-.eE ,x"[s % 18];
    }
    u32 crc = ~0u;
    int state = 0, seen[6] = {0};
    for (int i = 0; i < 256; i++) {
      crc = crc_table[(crc ^ text[i]) & 255] ^ (crc >> 8);
      state = next_state(state, text[i]);
      seen[state]++;
    }
    for (int i = 0; i < 32; i++) {
      s = s * 1664525u + 1013904223u;
      a[i] = (int)(s >> 8);
    }
    sort(a, 32);
    sum += crc + a[7] + seen[1] * 3 + seen[5];
  }
  sink += sum;
}

/* matmul: two matrices of 24 by 24 integers. */
enum { SIDE = 24 };

static void test_matmul(u64 n) {
  static int a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      a[i][j] = i * 7 + j;
      b[i][j] = j * 3 - i;
    }
  for (u64 round = 0; round < n; round++) {
    for (int i = 0; i < SIDE; i++)
      for (int j = 0; j < SIDE; j++) {
        int sum = 0;
        for (int k = 0; k < SIDE; k++) sum += a[i][k] * b[k][j];
        c[i][j] = sum;
      }
    a[round % SIDE][3] ^= c[5][7];
  }
  sink += c[3][3];
}

/* div64: division of 64 bits, which a guest of 32 has to make of several. */
static void test_div64(u64 n) {
  u64 x = 0x9e3779b97f4a7c15ull, sum = 0;
  for (u64 i = 0; i < n; i++) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    sum += x / ((x >> 40) | 1);
  }
  sink += sum;
}

/* fib: calls and returns, 21 891 of them for fib(20). */
__attribute__((noinline)) static u32 fib(u32 k) { return k < 2 ? k : fib(k - 1) + fib(k - 2); }

static void test_fib(u64 n) {
  for (u64 calls = 0; calls < n; calls += 21891) sink += fib(20);
}

/* sha256: one block after the other; FIPS 180-4, 6.2. */
static const u32 ROUND_CONSTANT[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline u32 rotate(u32 x, int by) { return (x >> by) | (x << (32 - by)); }

static inline void schedule(u32 *w, const u8 *block) {
  for (int i = 0; i < 16; i++)
    w[i] = (u32)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
  for (int i = 16; i < 64; i++) {
    u32 low = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3);
    u32 high = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + low + w[i - 7] + high;
  }
}

static inline void compress(u32 *hash, const u32 *w) {
  u32 a = hash[0], b = hash[1], c = hash[2], d = hash[3], e = hash[4], f = hash[5], g = hash[6], h = hash[7];
  for (int i = 0; i < 64; i++) {
    u32 t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + ROUND_CONSTANT[i] + w[i];
    u32 t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1;
    d = c, c = b, b = a, a = t1 + t2;
  }
  hash[0] += a, hash[1] += b, hash[2] += c, hash[3] += d;
  hash[4] += e, hash[5] += f, hash[6] += g, hash[7] += h;
}

static void test_sha256(u64 n) {
  u32 hash[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  u8 block[64];
  memset(block, 7, sizeof block);
  for (u64 i = 0; i < n; i++) {
    u32 w[64];
    block[i & 63] ^= (u8)i;
    schedule(w, block);
    compress(hash, w);
  }
  sink += hash[0];
}

/* mandel: doubles; n is the number of inner rounds, about. */
static void test_mandel(u64 n) {
  u64 rounds = 0;
  while (rounds < n)
    for (int row = 0; row < 64 && rounds < n; row++)
      for (int column = 0; column < 64; column++) {
        double x0 = column * 3.0 / 64 - 2.2, y0 = row * 2.4 / 64 - 1.2, x = 0, y = 0;
        int k = 0;
        for (; x * x + y * y <= 4.0 && k < 200; k++) {
          double next = x * x - y * y + x0;
          y = 2 * x * y + y0;
          x = next;
        }
        rounds += k;
      }
  sink += rounds;
}

/* chase: pointers through lines of 64 bytes in one random cycle (Sattolo's shuffle); n hops. */
static void **make_chain(size_t bytes) {
  size_t lines = bytes / 64;
  u8 *memory = map_memory(bytes);
  u32 *next = malloc(lines * sizeof *next);
  u64 s = 88172645463325252ull;
  for (size_t i = 0; i < lines; i++) next[i] = i;
  for (size_t i = lines - 1; i > 0; i--) {
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    size_t j = s % i;
    u32 t = next[i];
    next[i] = next[j];
    next[j] = t;
  }
  for (size_t i = 0; i < lines; i++) *(void **)(memory + i * 64) = memory + (size_t)next[i] * 64;
  free(next);
  return (void **)memory;
}

static void chase(void **p, u64 n) {
  for (u64 i = 0; i < n; i += 8) {
    p = *p, p = *p, p = *p, p = *p;
    p = *p, p = *p, p = *p, p = *p;
  }
  sink += (uintptr_t)p;
}

static void test_chase16k(u64 n) {
  static void **chain;
  if (chain == NULL) chain = make_chain(16u << 10);
  chase(chain, n);
}

static void test_chase256k(u64 n) {
  static void **chain;
  if (chain == NULL) chain = make_chain(256u << 10);
  chase(chain, n);
}

static void test_chase64m(u64 n) {
  static void **chain;
  if (chain == NULL) chain = make_chain(64u << 20);
  chase(chain, n);
}

/* Bandwidth of 16 MiB; n MiB moved. */
enum { BUFFER = 16 << 20, WORDS = BUFFER / sizeof(size_t) };
static u8 *to, *from;

static void make_buffers(void) {
  if (to != NULL) return;
  to = malloc(BUFFER);
  from = malloc(BUFFER);
  memset(to, 1, BUFFER);
  memset(from, 2, BUFFER);
}

static void test_memcpy(u64 n) {
  make_buffers();
  for (u64 i = 0; i < n; i += 16) {
    memcpy(to, from, BUFFER);
    sink += to[i & 4095];
    from[i & 4095]++;
  }
}

static void test_memset(u64 n) {
  make_buffers();
  for (u64 i = 0; i < n; i += 16) {
    memset(to, (int)i, BUFFER);
    sink += to[i & 4095];
  }
}

/* Or the compiler makes a memcpy of it. */
__attribute__((noinline, optimize("no-tree-loop-distribute-patterns"))) static void copy_words(
    size_t *d, const size_t *s, size_t count) {
  for (size_t i = 0; i < count; i += 4) {
    d[i] = s[i];
    d[i + 1] = s[i + 1];
    d[i + 2] = s[i + 2];
    d[i + 3] = s[i + 3];
  }
}

static void test_wordcopy(u64 n) {
  make_buffers();
  for (u64 i = 0; i < n; i += 16) {
    copy_words((size_t *)to, (size_t *)from, WORDS);
    sink += to[i & 4095];
    from[i & 4095]++;
  }
}

__attribute__((noinline)) static size_t sum_words(const size_t *s, size_t count) {
  size_t sum = 0;
  for (size_t i = 0; i < count; i++) sum += s[i];
  return sum;
}

static void test_wordsum(u64 n) {
  make_buffers();
  for (u64 i = 0; i < n; i += 16) sink += sum_words((size_t *)from, WORDS);
}

/* The kernel's paths. getppid, as libc can't know its answer. */
static void test_syscall(u64 n) {
  for (u64 i = 0; i < n; i++) sink += syscall(SYS_getppid);
}

/* pgfault: n first touches of small pages. */
static void test_pgfault(u64 n) {
  const size_t bytes = 4096 * 1024;
  for (u64 i = 0; i < n; i += 1024) {
    u8 *memory = map_memory(bytes);
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
    munmap(memory, bytes);
  }
}

/* mprot: a page made read-only and read, made writable and written. */
static void test_mprot(u64 n) {
  static u8 *memory;
  if (memory == NULL) {
    memory = map_memory(65536);
    memset(memory, 1, 65536);
  }
  for (u64 i = 0; i < n; i++) {
    mprotect(memory, 4096, PROT_READ);
    sink += memory[0];
    mprotect(memory, 4096, PROT_READ | PROT_WRITE);
    memory[0] = (u8)i;
  }
}

static void test_fork(u64 n) {
  for (u64 i = 0; i < n; i++) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
  }
}

/* pipe: a byte to another process and back. */
static void echo(int in, int out) {
  char c;
  while (read(in, &c, 1) == 1 && write(out, &c, 1) == 1) {
  }
  _exit(0);
}

static void test_pipe(u64 n) {
  int there[2], back[2];
  char c = 0;
  if (pipe(there) != 0 || pipe(back) != 0) return;
  pid_t child = fork();
  if (child == 0) {
    close(there[1]);
    close(back[0]);
    echo(there[0], back[1]);
  }
  close(there[0]);
  close(back[1]);
  for (u64 i = 0; i < n; i++)
    if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1) break;
  close(there[1]);
  close(back[0]);
  waitpid(child, NULL, 0);
}
