// What it costs the kernel to page memory out to zram and in again, in nanoseconds a page. Usage: zram FILE. The content is
// the file's; LZ4, as ours. Needs root and an idle /dev/zram0, which is given back as it was.
#include "common.h"
#include <fcntl.h>
#include <sys/swap.h>

#define ZRAM "/sys/block/zram0/"
#define DEVICE "/dev/zram0"
#define PAGES 16384ul
#define ROUNDS 3
// Twice what is paged out: all of it fits, compressed or not.
#define DISK (2 * PAGES * PG)

static int swapped_on;

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, text, strlen(text));
	close(fd);
	return n == (ssize_t)strlen(text) ? 0 : -1;
}

static void give_back(void)
{
	if (swapped_on)
		swapoff(DEVICE);
	write_text(ZRAM "reset", "1");
}

// What mkswap writes: the signature at the end of the first page, the version and the last page at 1024.
static int make_swap(void)
{
	static uint8_t header[PG];
	uint32_t info[3] = {1, DISK / PG - 1, 0};
	memcpy(header + 1024, info, sizeof info);
	memcpy(header + PG - 10, "SWAPSPACE2", 10);
	int fd = open(DEVICE, O_WRONLY);
	if (fd < 0)
		return -1;
	int ok = pwrite(fd, header, PG, 0) == (ssize_t)PG && fsync(fd) == 0;
	close(fd);
	return ok ? 0 : -1;
}

static void take_device(void)
{
	char size[32];
	snprintf(size, sizeof size, "%lu", DISK);
	write_text(ZRAM "comp_algorithm", "lz4");
	if (write_text(ZRAM "disksize", size)) {
		fprintf(stderr, "zram0 is in use, or may not be set\n");
		exit(3);
	}
	atexit(give_back);
	if (make_swap() || swapon(DEVICE, 0))
		die("swapon");
	swapped_on = 1;
}

// Processor time of this process, the kernel's share included: paging out and in are synchronous here.
static double cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static long pages_in_swap(void)
{
	char line[256];
	long kib = 0;
	FILE *status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof line, status))
		sscanf(line, "VmSwap: %ld", &kib);
	if (status)
		fclose(status);
	return kib / 4;
}

static void load_file(const char *path, uint8_t *memory)
{
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		die(path);
	for (size_t got = 0; got < PAGES * PG;) {
		ssize_t n = read(fd, memory + got, PAGES * PG - got);
		if (n <= 0)
			die("read");
		got += n;
	}
	close(fd);
}

int main(int argc, char **argv)
{
	static volatile uint8_t sink;
	if (argc < 2)
		return 2;
	uint8_t *memory = map(PAGES * PG, MADV_NOHUGEPAGE);
	load_file(argv[1], memory);
	take_device();
	for (int round = 0; round < ROUNDS; round++) {
		double start = cpu_ns();
		if (madvise(memory, PAGES * PG, MADV_PAGEOUT))
			die("madvise");
		double out = cpu_ns();
		long swapped = pages_in_swap();
		double before = cpu_ns();
		for (size_t i = 0; i < PAGES; i++)
			sink = memory[i * PG];
		double in = cpu_ns();
		printf("out\t%.0f\nin\t%.0f\nswapped\t%ld\n", (out - start) / PAGES, (in - before) / PAGES, swapped);
		for (size_t i = 0; i < PAGES; i++)
			memory[i * PG + 8] ^= 1;
	}
	return 0;
}
