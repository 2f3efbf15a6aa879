// What the kernel takes for a huge page: the fault that brings it, and taking it away: `name p10 p50 p99` in ns.
#include "common.h"

#define AREAS 64ul

static uint64_t s[AREAS];

static void fault_each(uint8_t *p)
{
	for (size_t i = 0; i < AREAS; i++) {
		uint64_t t = tsc();
		p[i * HP] = 1;
		s[i] = tsc() - t;
	}
}

static void drop_each(uint8_t *p)
{
	for (size_t i = 0; i < AREAS; i++) {
		uint64_t t = tsc();
		if (madvise(p + i * HP, HP, MADV_DONTNEED))
			die("madvise");
		s[i] = tsc() - t;
	}
}

int main(void)
{
	calibrate();
	pin(0);
	uint8_t *p = map(AREAS * HP, MADV_HUGEPAGE);
	// The first round finds the host's own memory cold.
	for (int round = 0; round < 4; round++) {
		fault_each(p);
		report(round ? "2 MiB write fault" : "2 MiB write fault, cold", s, AREAS);
		drop_each(p);
		report("2 MiB DONTNEED", s, AREAS);
	}
	return 0;
}
