/* hotcold HOT_KIB COLD_MIB THOUSANDS: a hot table in memory, of which every page is used over and over, beside a
 * cold file of which one page after the other is read: one read for four hot pages. A reclaimer that sees use keeps
 * the table. The kernel reads the file, so its pages don't push the table's translations out of the TLB: what
 * is hottest never misses. Prints the touches. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

/* Bytes that differ from page to page, so that swap has to keep each. */
static void fill(uint8_t *page, uint64_t i) {
  for (unsigned b = 0; b < PAGE; b += 16) page[b] = (uint8_t)((i * 31 + b) ^ (i >> 8));
}

static volatile uint8_t *table(uint64_t pages) {
  uint8_t *a = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (uint64_t i = 0; i < pages; i++) fill(a + i * PAGE, i);
  return a;
}

static int file(uint64_t pages) {
  static uint8_t page[PAGE];
  int fd = memfd_create("cold", 0);
  for (uint64_t i = 0; i < pages; i++) {
    fill(page, i);
    if (write(fd, page, PAGE) != PAGE) exit(1);
  }
  return fd;
}

int main(int argc, char **argv) {
  uint64_t hot = (argc > 1 ? atoi(argv[1]) : 2048) / 4, cold = (argc > 2 ? atoi(argv[2]) : 32) * 256ull;
  uint64_t rounds = (argc > 3 ? atoi(argv[3]) : 1000) / 5;
  volatile uint8_t *h = table(hot);
  int fd = file(cold);
  uint64_t touched = 0, at = 0, next = 0, sum = 0, word = 0;
  while (rounds-- > 0) {
    for (int i = 0; i < 1000; i++) {
      for (int k = 0; k < 4; k++) {
        sum += h[at * PAGE];
        at = (at + 1) % hot;
      }
      if (pread(fd, &word, sizeof word, next * PAGE) != sizeof word) return 1;
      sum += word;
      next = (next + 1) % cold;
      touched += 5;
    }
  }
  printf("hotcold: %llu touches, sum %llu\n", (unsigned long long)touched, (unsigned long long)sum);
  return 0;
}
