/* The few system calls the agent makes, for riscv64 Linux without a C library. */
#ifndef AGENT_SYSCALL_H
#define AGENT_SYSCALL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long i64;

enum { ENOENT = 2, EINTR = 4, EIO = 5, E2BIG = 7, EAGAIN = 11, EACCES = 13, EEXIST = 17, ENOTDIR = 20, EINVAL = 22, ENOSPC = 28 };

/* asm-generic/unistd.h: numbers are an ABI and never change. */
enum {
	NR_dup3 = 24, NR_fcntl = 25, NR_ioctl = 29, NR_mkdirat = 34, NR_unlinkat = 35, NR_umount2 = 39,
	NR_mount = 40, NR_faccessat = 48, NR_chdir = 49, NR_chroot = 51, NR_openat = 56, NR_close = 57,
	NR_pipe2 = 59, NR_getdents64 = 61, NR_read = 63, NR_write = 64, NR_ppoll = 73, NR_signalfd4 = 74,
	NR_sync = 81, NR_exit_group = 94, NR_nanosleep = 101, NR_kill = 129, NR_rt_sigaction = 134,
	NR_rt_sigprocmask = 135, NR_reboot = 142, NR_setsid = 157, NR_sethostname = 161, NR_getpid = 172,
	NR_socket = 198, NR_clone = 220, NR_execve = 221, NR_wait4 = 260, NR_finit_module = 273,
};

enum {
	AT_FDCWD = -100,
	O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_NOCTTY = 0400, O_NONBLOCK = 04000, O_DIRECTORY = 0200000,
	O_CLOEXEC = 02000000,
};

static inline i64 syscall6(i64 nr, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
	register i64 a0 __asm__("a0") = a;
	register i64 a1 __asm__("a1") = b;
	register i64 a2 __asm__("a2") = c;
	register i64 a3 __asm__("a3") = d;
	register i64 a4 __asm__("a4") = e;
	register i64 a5 __asm__("a5") = f;
	register i64 a7 __asm__("a7") = nr;
	__asm__ volatile("ecall"
			 : "+r"(a0)
			 : "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5), "r"(a7)
			 : "memory");
	return a0;
}

#define sys0(nr) syscall6(nr, 0, 0, 0, 0, 0, 0)
#define sys1(nr, a) syscall6(nr, (i64)(a), 0, 0, 0, 0, 0)
#define sys2(nr, a, b) syscall6(nr, (i64)(a), (i64)(b), 0, 0, 0, 0)
#define sys3(nr, a, b, c) syscall6(nr, (i64)(a), (i64)(b), (i64)(c), 0, 0, 0)
#define sys4(nr, a, b, c, d) syscall6(nr, (i64)(a), (i64)(b), (i64)(c), (i64)(d), 0, 0)
#define sys5(nr, a, b, c, d, e) syscall6(nr, (i64)(a), (i64)(b), (i64)(c), (i64)(d), (i64)(e), 0)

static inline i64 sys_open(const char *path, int flags) { return sys4(NR_openat, AT_FDCWD, path, flags, 0); }
static inline i64 sys_close(int fd) { return sys1(NR_close, fd); }
static inline i64 sys_read(int fd, void *to, u64 n) { return sys3(NR_read, fd, to, n); }
static inline i64 sys_write(int fd, const void *from, u64 n) { return sys3(NR_write, fd, from, n); }
static inline i64 sys_ioctl(int fd, u64 request, void *arg) { return sys3(NR_ioctl, fd, request, arg); }
static inline i64 sys_mount(const char *what, const char *where, const char *type, u64 flags, const char *data)
{
	return sys5(NR_mount, what, where, type, flags, data);
}

#define AGENT_TIOCSCTTY 0x540e
#define AGENT_TIOCGPTN 0x80045430
#define AGENT_TIOCSPTLCK 0x40045431
#define AGENT_TIOCSWINSZ 0x5414
#define AGENT_TCGETS 0x5401
#define AGENT_TCSETS 0x5402

#endif
