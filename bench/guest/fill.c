/* fill MIB [SEED]: fills MIB of anonymous memory, every 4 KiB with its own index and a keyed pattern of which
 * half is incompressible, then verifies all of it twice, in seeded random order. Prints one line and exits
 * 0 if every byte was right, else 1. Build: riscv64-linux-gnu-gcc -O2 -static -o fill fill.c */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };

static uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/* Word `w` of page `index`: the index, then noise in the first half and the index again in the second. */
static uint64_t word(uint64_t seed, uint64_t index, unsigned w) {
  if (w == 0 || w >= WORDS / 2) return index;
  return mix(seed + index * WORDS + w);
}

static void fill(uint64_t *page, uint64_t seed, uint64_t index) {
  for (unsigned w = 0; w < WORDS; w++) page[w] = word(seed, index, w);
}

static uint64_t wrong(const uint64_t *page, uint64_t seed, uint64_t index) {
  uint64_t bad = 0;
  for (unsigned w = 0; w < WORDS; w++) bad += page[w] != word(seed, index, w);
  return bad;
}

static void shuffle(uint32_t *order, uint64_t pages, uint64_t seed) {
  for (uint64_t i = 0; i < pages; i++) order[i] = i;
  for (uint64_t i = pages - 1; i > 0; i--) {
    uint64_t j = mix(seed + i) % (i + 1);
    uint32_t t = order[i];
    order[i] = order[j];
    order[j] = t;
  }
}

int main(int argc, char **argv) {
  uint64_t mib = argc > 1 ? strtoull(argv[1], 0, 0) : 120;
  uint64_t seed = argc > 2 ? strtoull(argv[2], 0, 0) : 1;
  uint64_t pages = mib * 256, bad = 0;
  uint64_t *memory = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint32_t *order = malloc(pages * sizeof *order);
  if (memory == MAP_FAILED || order == NULL) {
    puts("fill: no memory");
    return 1;
  }
  for (uint64_t i = 0; i < pages; i++) fill(memory + i * WORDS, seed, i);
  for (int round = 0; round < 2; round++) {
    shuffle(order, pages, seed + 7919 * (round + 1));
    for (uint64_t i = 0; i < pages; i++) bad += wrong(memory + (uint64_t)order[i] * WORDS, seed, order[i]);
  }
  printf("fill: %llu MiB, 2 rounds, %llu wrong words\n", (unsigned long long)mib, (unsigned long long)bad);
  return bad != 0;
}
