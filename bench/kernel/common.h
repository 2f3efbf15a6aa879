// What the kernel baselines share: the time stamp counter as a clock, statistics, pinning to a CPU.
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define PG 4096ul
#define HP (2ul << 20)

static double ns_per_tick;

static inline uint64_t tsc(void)
{
	unsigned aux;
	return __rdtscp(&aux);
}

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void calibrate(void)
{
	double t0 = now_ns();
	uint64_t c0 = tsc();
	while (now_ns() - t0 < 5e7)
		;
	ns_per_tick = (now_ns() - t0) / (double)(tsc() - c0);
}

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof set, &set);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

// Sorts the samples (ticks) and prints percentiles in nanoseconds: one line, tab separated.
static void report(const char *name, uint64_t *v, size_t n)
{
	qsort(v, n, 8, by_value);
	printf("%s\t%.0f\t%.0f\t%.0f\n", name, v[n / 10] * ns_per_tick, v[n / 2] * ns_per_tick,
	       v[n - 1 - n / 100] * ns_per_tick);
	fflush(stdout);
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint8_t *map(size_t len, int advice)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uint8_t *p = mmap(0, len + HP, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	p = (uint8_t *)(((uintptr_t)p + HP - 1) & ~(HP - 1));
	if (madvise(p, len, advice))
		die("madvise");
	return p;
}
