// How fast ksmd merges, unthrottled: 65536 pages, a quarter of zeroes, half of 64 contents, a quarter unique. Prints
// a name and a figure a line, tab separated. Needs the right to write /sys/kernel/mm/ksm, and puts all back.
#include "common.h"
#include <fcntl.h>

#define KSM "/sys/kernel/mm/ksm/"
#define PAGES 65536ul
// Changes are looked for this often, in microseconds; the rate is that of the last one.
#define POLL 5000
#define POLLS 4000

static long read_knob(const char *name)
{
	char path[96], text[32] = {0};
	snprintf(path, sizeof path, KSM "%s", name);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	return n < 0 ? -1 : atol(text);
}

static int write_knob(const char *name, long value)
{
	char path[96], text[32];
	snprintf(path, sizeof path, KSM "%s", name);
	int fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	int n = snprintf(text, sizeof text, "%ld", value);
	int ok = write(fd, text, n) == n ? 0 : -1;
	close(fd);
	return ok;
}

// Must equal content() of ksm.ts.
static void fill(uint8_t *memory)
{
	for (uint32_t i = 0; i < PAGES; i++) {
		uint32_t *word = (uint32_t *)(memory + i * PG);
		uint32_t kind = i & 3;
		uint32_t seed = kind == 0 ? 0 : kind < 3 ? 1 + (i >> 2) % 64 : 1000 + i;
		for (uint32_t j = 0; j < PG / 4; j++)
			word[j] = seed == 0 ? 0 : seed * 2654435769u + j * (seed | 1);
	}
}

// Merged pages a second, from the start to the moment of the last merge.
static double merge(long wanted)
{
	double start = now_ns(), last_change = start;
	long merged = 0;
	if (write_knob("run", 1))
		die("run");
	for (int i = 0; i < POLLS; i++) {
		usleep(POLL);
		long now = read_knob("pages_sharing");
		if (now != merged)
			last_change = now_ns();
		merged = now;
		if (merged >= wanted && read_knob("full_scans") >= 2 && now_ns() - last_change > 2e8)
			break;
	}
	return merged / (last_change - start) * 1e9;
}

static double scan_rate(void)
{
	long before = read_knob("pages_scanned");
	double start = now_ns();
	usleep(500000);
	return (read_knob("pages_scanned") - before) / (now_ns() - start) * 1e9;
}

int main(void)
{
	const char *names[] = {"pages_to_scan", "sleep_millisecs", "smart_scan", "use_zero_pages"};
	const long ours[] = {100000, 0, 0, 0};
	long before[4], run = read_knob("run");
	calibrate();
	uint8_t *memory = map(PAGES * PG, MADV_NOHUGEPAGE);
	fill(memory);
	for (int i = 0; i < 4; i++) {
		before[i] = read_knob(names[i]);
		write_knob(names[i], ours[i]);
	}
	if (madvise(memory, PAGES * PG, MADV_MERGEABLE))
		die("madvise");
	double rate = merge(PAGES * 3 / 4 - 700), scan = scan_rate();
	write_knob("run", 2);
	for (int i = 0; i < 4; i++)
		write_knob(names[i], before[i]);
	write_knob("run", run < 0 ? 0 : run);
	printf("merge\t%.0f\nscan\t%.0f\n", rate, scan);
	return 0;
}
