/* What an init does before it serves: mounts, modules, the root file system, a shell on the console. */
#include "agent.h"

enum { MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_MOVE = 8192 };

static char command_line[4096];

/* Value of `name=value` on the kernel command line into `to`; 0 if it is not there. */
static int option(const char *name, char *to, u64 size)
{
	u64 n = strlen(name);
	for (const char *at = command_line; *at; at++) {
		if ((at != command_line && at[-1] != ' ') || !starts(at, name) || at[n] != '=')
			continue;
		u64 i = 0;
		for (at += n + 1; at[i] && at[i] != ' ' && at[i] != '\n' && i < size - 1; i++)
			to[i] = at[i];
		to[i] = 0;
		return 1;
	}
	return 0;
}

int command_line_has(const char *word)
{
	u64 n = strlen(word);
	for (const char *at = command_line; *at; at++)
		if ((at == command_line || at[-1] == ' ') && starts(at, word) && (at[n] == ' ' || at[n] == '\n' || !at[n]))
			return 1;
	return 0;
}

static void make_directory(const char *path) { sys3(NR_mkdirat, AT_FDCWD, path, 0755); }

static void complain(const char *what, const char *which, i64 error)
{
	char text[128] = "";
	append(text, sizeof text - 32, which);
	append(text, sizeof text, ": error ");
	append_number(text, sizeof text, (u64)-error);
	say(what, text);
}

static void mount_or_say(const char *what, const char *where, const char *type, u64 flags, const char *data)
{
	i64 r = sys_mount(what, where, type, flags, data);
	if (r < 0)
		complain("cannot mount ", where, r);
}

void boot_mounts(void)
{
	mount_or_say("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
	mount_or_say("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
	mount_or_say("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
	make_directory("/dev/pts");
	mount_or_say("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666");
	make_directory("/dev/shm");
	mount_or_say("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	read_file("/proc/cmdline", command_line, sizeof command_line);
	sys2(NR_sethostname, "faultline", 9);
}

/* Device types present, as bits: /sys/bus/virtio/devices/virtioN/device holds 0x0002 for a disk. */
static u64 virtio_types(void)
{
	char path[64], text[16];
	u64 types = 0;
	for (u64 n = 0; n < 32; n++) {
		path[0] = 0;
		append(path, sizeof path, "/sys/bus/virtio/devices/virtio");
		append_number(path, sizeof path, n);
		append(path, sizeof path, "/device");
		if (read_file(path, text, sizeof text) < 6)
			break;
		u64 type = 0;
		for (int i = 2; text[i] && text[i] != '\n'; i++)
			type = type * 16 + (u64)(text[i] <= '9' ? text[i] - '0' : (text[i] | 32) - 'a' + 10);
		if (type < 64)
			types |= 1UL << type;
	}
	return types;
}

static void load_module(const char *name)
{
	char path[128] = "/lib/modules/";
	append(path, sizeof path - 3, name);
	append(path, sizeof path, ".ko");
	i64 fd = sys_open(path, O_RDONLY | O_CLOEXEC);
	i64 r = fd < 0 ? fd : sys3(NR_finit_module, fd, "", 0);
	if (fd >= 0)
		sys_close((int)fd);
	if (r < 0 && r != -EEXIST)
		complain("cannot load module ", name, r);
	sys3(NR_unlinkat, AT_FDCWD, path, 0); /* its pages are the guest's memory */
}

/* /etc/modules: a name a line in load order; `@N name` loads only where a virtio device of type N is. */
void boot_modules(void)
{
	static char list[4096];
	u64 types = 0;
	int looked = 0;
	if (read_file("/etc/modules", list, sizeof list) < 0)
		return;
	for (char *line = list; *line;) {
		char *end = line, *name = line;
		u64 type = 0;
		while (*end && *end != '\n')
			end++;
		char *next = *end ? end + 1 : end;
		*end = 0;
		if (*name == '@') {
			for (name++; *name >= '0' && *name <= '9'; name++)
				type = type * 10 + (u64)(*name - '0');
			if (!looked)
				types = virtio_types(), looked = 1;
			name++;
		}
		if (*name && (type == 0 || types >> type & 1))
			load_module(name);
		line = next;
	}
}

static i64 mount_disk(const char *device, const char *type)
{
	i64 r = 0;
	u64 pause[2] = { 0, 20 * 1000 * 1000 };
	for (int i = 0; i < 100; i++) {
		r = sys_mount(device, "/lower", type, MS_RDONLY, 0);
		if (r != -ENOENT && r != -6 /* ENXIO */)
			break;
		sys2(NR_nanosleep, pause, 0); /* the disk may still be probing */
	}
	return r;
}

/* `faultline.root=DEVICE`: the disk below, memory above, and the initramfs left behind. */
void boot_root(void)
{
	static const char *const moved[] = { "/dev", "/proc", "/sys" };
	char device[64], type[32] = "erofs", to[64];
	if (!option("faultline.root", device, sizeof device))
		return;
	option("faultline.rootfstype", type, sizeof type);
	i64 r = mount_disk(device, type);
	if (r < 0) {
		complain("cannot mount the root disk ", device, r);
		return;
	}
	mount_or_say("tmpfs", "/rw", "tmpfs", 0, "mode=0755");
	make_directory("/rw/upper");
	make_directory("/rw/work");
	mount_or_say("overlay", "/newroot", "overlay", 0, "lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work");
	for (u64 i = 0; i < sizeof moved / sizeof *moved; i++) {
		to[0] = 0;
		append(to, sizeof to, "/newroot");
		append(to, sizeof to, moved[i]);
		if ((r = sys_mount(moved[i], to, 0, MS_MOVE, 0)) < 0)
			complain("cannot move ", moved[i], r);
	}
	sys3(NR_unlinkat, AT_FDCWD, "/init", 0);
	sys1(NR_chdir, "/newroot");
	sys_mount(".", "/", 0, MS_MOVE, 0);
	sys1(NR_chroot, ".");
	sys1(NR_chdir, "/");
	mount_or_say("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
}

void boot_loopback(void)
{
	struct { char name[16]; u16 flags; u8 rest[22]; } request = { "lo", 0x41 /* IFF_UP | IFF_RUNNING */, { 0 } };
	i64 fd = sys3(NR_socket, 2, 2 | O_CLOEXEC, 0);
	if (fd < 0)
		return;
	sys_ioctl((int)fd, 0x8914 /* SIOCSIFFLAGS */, &request);
	sys_close((int)fd);
}

static void shell_child(void *arg)
{
	static char *const bash[] = { "bash", "--norc", "--noprofile", 0 }, *const sh[] = { "sh", 0 };
	static char *const environment[] = { "HOME=/root", "TERM=linux", "PS1=# ",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 0 };
	u64 none = 0;
	(void)arg;
	sys0(NR_setsid);
	i64 fd = sys_open("/dev/ttyS0", O_RDWR);
	if (fd < 0)
		fd = sys_open("/dev/console", O_RDWR);
	sys_ioctl((int)fd, AGENT_TIOCSCTTY, 0);
	for (int i = 0; i < 3; i++)
		sys3(NR_dup3, fd, i, 0);
	if (fd > 2)
		sys_close((int)fd);
	sys4(NR_rt_sigprocmask, 2, &none, 0, 8);
	sys1(NR_chdir, "/root");
	sys3(NR_execve, "/bin/bash", bash, environment);
	sys3(NR_execve, "/bin/sh", sh, environment);
	say("no shell: ", "/bin/sh");
	sys1(NR_exit_group, 127);
}

i64 boot_console_shell(void)
{
	static u8 stack[8192] __attribute__((aligned(16)));
	return spawn_vfork(shell_child, 0, stack + sizeof stack);
}

void power_off(void)
{
	sys0(NR_sync);
	sys4(NR_reboot, 0xfee1dead, 672274793, 0x4321fedc, 0);
	for (;;)
		sys4(NR_ppoll, 0, 0, 0, 0);
}
