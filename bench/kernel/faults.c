// What the kernel takes for the faults of anonymous memory: `name p10 p50 p99`, in nanoseconds a fault.
#include "common.h"

#define N 16384ul

static uint64_t s[N];
static volatile uint8_t sink;

static void write_each(uint8_t *p, uint8_t value)
{
	for (size_t i = 0; i < N; i++) {
		uint64_t t = tsc();
		p[i * PG] = value;
		s[i] = tsc() - t;
	}
}

static void read_each(uint8_t *p)
{
	for (size_t i = 0; i < N; i++) {
		uint64_t t = tsc();
		sink = p[i * PG];
		s[i] = tsc() - t;
	}
}

int main(void)
{
	calibrate();
	pin(0);
	uint8_t *p = map(N * PG, MADV_NOHUGEPAGE);
	// The first round finds the host's own memory cold.
	for (int round = 0; round < 3; round++) {
		write_each(p, 1);
		report(round ? "write fault" : "write fault, cold", s, N);
		if (madvise(p, N * PG, MADV_DONTNEED))
			die("madvise");
	}
	read_each(p);
	report("zero page", s, N);
	write_each(p, 1);
	report("write to the zero page", s, N);
	pid_t child = fork();
	if (child == 0) {
		write_each(p, 3);
		report("copy on write", s, N);
		_exit(0);
	}
	waitpid(child, 0, 0);
	write_each(p, 3);
	report("reuse on write", s, N);
	return 0;
}
