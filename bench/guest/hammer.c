/* hammer HOT_KIB COLD_MIB SECONDS BURST_MS [LAG_MIB]: adds one to a word of every hot page over and over, and between two bursts of
 * that to words of a larger cold file. What each word must hold is a count that stays in a register, so a write
 * that was lost shows at the next visit: then it prints what it found and ends at once, while the kernel
 * below still can. The kernel moves the file's words, so that the hot pages stay in the TLB.
 * With LAG_MIB it reads the cold pages one after another, and now and then writes to one that was read so many MiB ago,
 * or half as many at the least: clean, and about to be taken away. That one is read once more later. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, BURST = 128 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Pages that begin so are the ones that a broken rule may lose: MARK of kvm/breaks.ts. */
static const uint64_t MARK = 0x4c4f5354;

static uint64_t checked;

static void wrong(const char *what, uint64_t page, uint64_t found, uint64_t count) {
  printf("hammer: page %llu of the %s part holds %llx, not %llx; %llu words, 1 wrong words\n",
         (unsigned long long)page, what, (unsigned long long)found, (unsigned long long)count,
         (unsigned long long)checked);
  exit(1);
}

static void sweep(volatile uint64_t *hot, uint64_t pages, uint64_t count) {
  for (uint64_t p = 0; p < pages; p++) {
    volatile uint64_t *word = hot + p * WORDS + 1 + p * 61 % (WORDS - 1);
    if (*word != count) wrong("hot", p, *word, count);
    *word = count + 1;
  }
  checked += pages;
}

static void visit(int cold, uint64_t page, uint64_t count) {
  uint64_t word = 0;
  off_t at = page * PAGE + 8 + page * 61 % (WORDS - 1) * 8;
  if ((count > 0 && pread(cold, &word, sizeof word, at) != sizeof word) || word != count) wrong("cold", page, word, count);
  word++;
  if (pwrite(cold, &word, sizeof word, at) != sizeof word) exit(2);
  if (count == 0 && pwrite(cold, &MARK, sizeof MARK, page * PAGE) != sizeof MARK) exit(2);
  checked++;
}

/* How many pages are read for one that is written. */
enum { READS = 256 };

static void trail(uint64_t pages, uint64_t lag, double end) {
  volatile uint64_t *cold = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  uint32_t *counts = calloc(pages, sizeof *counts), random = 1;
  for (uint64_t p = 0; p < pages; p++) cold[p * WORDS] = MARK;
  for (uint64_t next = 0, last = 0; now() < end;) {
    for (int i = 0; i < READS; i++, next = (next + 1) % pages, checked++) {
      uint64_t found = cold[next * WORDS + 1 + next * 61 % (WORDS - 1)];
      if (found != counts[next]) wrong("cold", next, found, counts[next]);
    }
    uint64_t again = cold[last * WORDS + 1 + last * 61 % (WORDS - 1)];
    if (again != counts[last]) wrong("cold", last, again, counts[last]);
    random = random * 1664525 + 1013904223;
    last = (next + 2 * pages - lag / 2 - random / 7 % (lag / 2)) % pages;
    cold[last * WORDS + 1 + last * 61 % (WORDS - 1)] = ++counts[last];
  }
}

int main(int argc, char **argv) {
  uint64_t pages = (argc > 1 ? atoi(argv[1]) : 2048) / 4, cold_pages = (argc > 2 ? atoi(argv[2]) : 96) * 256ull;
  double hammer = (argc > 4 ? atof(argv[4]) : 60) / 1000;
  double end = now() + (argc > 3 ? atof(argv[3]) : 10);
  if (argc > 5) {
    trail(cold_pages, atoi(argv[5]) * 256ull, end);
    printf("hammer: %llu words, 0 wrong words\n", (unsigned long long)checked);
    return 0;
  }
  uint64_t *hot = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int cold = memfd_create("cold", 0);
  for (uint64_t p = 0; p < pages; p++) hot[p * WORDS] = MARK;
  uint64_t sweeps = 0, round = 0, next = 0;
  if (ftruncate(cold, cold_pages * PAGE) != 0) return 2;
  do {
    for (int i = 0; i < BURST; i++) {
      visit(cold, next, round);
      if (++next == cold_pages) next = 0, round++;
    }
    for (double until = now() + hammer; now() < until && round > 0;) sweep(hot, pages, sweeps++);
  } while (now() < end);
  printf("hammer: %llu words, 0 wrong words\n", (unsigned long long)checked);
  return 0;
}
