/* hotcold HOT_MIB COLD_MIB SECONDS: touches a hot set over and over, and a cold set one page at a time, four
 * hot pages for each cold one, so that a reclaimer that sees use keeps the hot set. Prints rounds done. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static volatile uint8_t *area(uint64_t pages) {
  uint8_t *a = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  /* Bytes that differ from page to page, so that swap has to keep each. */
  for (uint64_t i = 0; i < pages; i++)
    for (unsigned b = 0; b < PAGE; b += 16) a[i * PAGE + b] = (uint8_t)((i * 31 + b) ^ (i >> 8));
  return a;
}

int main(int argc, char **argv) {
  uint64_t hot = (argc > 1 ? atoi(argv[1]) : 16) * 256ull, cold = (argc > 2 ? atoi(argv[2]) : 64) * 256ull;
  double end, seconds = argc > 3 ? atof(argv[3]) : 10;
  volatile uint8_t *h = area(hot), *c = area(cold);
  uint64_t touched = 0, at = 0, next = 0, sum = 0;
  end = now() + seconds;
  do {
    for (int i = 0; i < 4096; i++) {
      for (int k = 0; k < 4; k++) {
        sum += h[at * PAGE];
        at = (at + 1) % hot;
      }
      sum += c[next * PAGE];
      next = (next + 1) % cold;
      touched += 5;
    }
  } while (now() < end);
  printf("hotcold: %llu touches, sum %llu\n", (unsigned long long)touched, (unsigned long long)sum);
  return 0;
}
