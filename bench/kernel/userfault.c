// What the kernel takes for user faults: `name p10 p50 p99`, in nanoseconds an access, from the touch to the
// instruction after it. Prints nothing where userfaultfd is not to be had.
#include "common.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>

#define N 512ul
#define SOURCES 64ul

// Newer than the headers of Debian 12.
#ifndef UFFDIO_MOVE
struct uffdio_move {
	__u64 dst, src, len, mode;
	__s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

static int fd;
static uint8_t *area, *source;
static uint64_t s[N];
static volatile int stop;
static int protecting;

static int open_context(uint64_t features)
{
	int made = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	if (made < 0)
		return -1;
	if (ioctl(made, UFFDIO_API, &api) == 0)
		return made;
	close(made);
	return -1;
}

static void attach(uint64_t features, uint64_t mode)
{
	struct uffdio_register r = { .range = { (uintptr_t)area, N * PG }, .mode = mode };
	fd = open_context(features);
	if (fd < 0 || ioctl(fd, UFFDIO_REGISTER, &r))
		die("register");
}

static void protect(uint64_t at, size_t length, uint64_t mode)
{
	struct uffdio_writeprotect w = { .range = { at, length }, .mode = mode };
	if (ioctl(fd, UFFDIO_WRITEPROTECT, &w))
		die("UFFDIO_WRITEPROTECT");
}

static void resolve(uint64_t address)
{
	uint64_t at = address & ~(PG - 1);
	if (protecting) {
		protect(at, PG, 0);
		return;
	}
	struct uffdio_copy c = { .dst = at, .len = PG };
	c.src = (uintptr_t)source + at % (SOURCES * PG);
	if (ioctl(fd, UFFDIO_COPY, &c))
		die("UFFDIO_COPY");
}

static void on_bus(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	resolve((uintptr_t)info->si_addr);
}

static void *manager(void *cpu)
{
	pin((int)(intptr_t)cpu);
	while (!stop) {
		struct uffd_msg m;
		if (read(fd, &m, sizeof m) == sizeof m) {
			resolve(m.arg.pagefault.address);
			continue;
		}
		struct pollfd p = { .fd = fd, .events = POLLIN };
		poll(&p, 1, 20);
	}
	return 0;
}

static void touch_each(const char *name)
{
	for (size_t i = 0; i < N; i++) {
		uint64_t t = tsc();
		*(volatile uint8_t *)(area + i * PG) = 1;
		s[i] = tsc() - t;
	}
	report(name, s, N);
}

static void empty(void)
{
	if (madvise(area, N * PG, MADV_DONTNEED))
		die("madvise");
}

static void in_thread(void)
{
	attach(UFFD_FEATURE_SIGBUS, UFFDIO_REGISTER_MODE_MISSING);
	for (int round = 0; round < 31; round++) {
		empty();
		touch_each("missing, in thread");
	}
	close(fd);
}

static void other_cpu(void)
{
	pthread_t thread;
	attach(0, UFFDIO_REGISTER_MODE_MISSING);
	empty();
	stop = 0;
	pthread_create(&thread, 0, manager, (void *)1);
	touch_each("missing, another thread");
	stop = 1;
	pthread_join(thread, 0);
	close(fd);
}

static void write_protected(void)
{
	attach(UFFD_FEATURE_SIGBUS | UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFDIO_REGISTER_MODE_WP);
	empty();
	for (size_t i = 0; i < N; i++)
		area[i * PG] = 1;
	protecting = 1;
	for (int round = 0; round < 31; round++) {
		protect((uintptr_t)area, N * PG, UFFDIO_WRITEPROTECT_MODE_WP);
		touch_each("protected, in thread");
	}
	protecting = 0;
	close(fd);
}

// The ioctls alone, a page a call: what a manager pays that fills ahead of faults.
static void ahead(void)
{
	attach(0, UFFDIO_REGISTER_MODE_MISSING);
	empty();
	for (size_t i = 0; i < N; i++) {
		uint64_t t = tsc();
		resolve((uintptr_t)area + i * PG);
		s[i] = tsc() - t;
	}
	report("COPY alone", s, N);
	close(fd);
	fd = open_context(UFFD_FEATURE_MOVE);
	if (fd < 0)
		return;
	close(fd);
	attach(UFFD_FEATURE_MOVE, UFFDIO_REGISTER_MODE_MISSING);
	empty();
	uint8_t *from = map(N * PG, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < N; i++)
		from[i * PG] = 5;
	for (size_t i = 0; i < N; i++) {
		struct uffdio_move m = { .len = PG };
		m.dst = (uintptr_t)area + i * PG;
		m.src = (uintptr_t)from + i * PG;
		uint64_t t = tsc();
		if (ioctl(fd, UFFDIO_MOVE, &m))
			die("UFFDIO_MOVE");
		s[i] = tsc() - t;
	}
	report("MOVE alone", s, N);
	close(fd);
}

int main(void)
{
	int probe = open_context(0);
	if (probe < 0)
		return 0;
	close(probe);
	struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_NODEFER };
	sigaction(SIGBUS, &action, 0);
	calibrate();
	pin(0);
	source = map(SOURCES * PG, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < SOURCES * PG; i++)
		source[i] = i * 31 + 7;
	area = map(N * PG, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < N; i++)
		area[i * PG] = 1; // the host's own memory is warm
	in_thread();
	write_protected();
	ahead();
	other_cpu();
	return 0;
}
