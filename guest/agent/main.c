/* PID 1 of a Faultline guest: boots it, then runs commands for the host. See docs/formats/agent.md. */
#include "agent.h"

enum { POLLIN = 1, POLLOUT = 4 };
struct pollfd {
	int fd;
	short events, revents;
};

static i64 shell;

static void send_ready(void)
{
	u8 payload[12];
	put32(payload, PROTOCOL_VERSION);
	put32(payload + 4, FRAME_MAX);
	put32(payload + 8, STDIN_WINDOW);
	channel_send(READY, 0, payload, sizeof payload);
}

static void take(u8 type, u32 id, const u8 *payload, u32 length)
{
	if (type == HELLO)
		send_ready();
	else if (type == POWEROFF)
		power_off();
	else
		task_request(type, id, payload, length);
}

/* Every orphan of the guest is ours as well. */
static void reap(int signals)
{
	u8 info[128];
	u32 status;
	i64 pid;
	sys_read(signals, info, sizeof info);
	while ((pid = sys4(NR_wait4, -1, &status, 1 /* WNOHANG */, 0)) > 0) {
		if (pid == shell)
			power_off();
		for (int i = 0; i < TASKS_MAX; i++)
			if (tasks[i].pid == pid)
				task_exited(&tasks[i], status);
	}
}

static void __attribute__((noreturn)) serve(int signals)
{
	static struct pollfd polls[2 + 3 * TASKS_MAX];
	for (;;) {
		u32 n = 2;
		polls[0] = (struct pollfd){ signals, POLLIN, 0 };
		polls[1] = (struct pollfd){ channel_fd, POLLIN, 0 };
		for (int i = 0; i < TASKS_MAX; i++) {
			struct task *t = &tasks[i];
			if (!t->pid)
				continue;
			polls[n++] = (struct pollfd){ t->out, POLLIN, 0 };
			polls[n++] = (struct pollfd){ t->err, POLLIN, 0 };
			polls[n++] = (struct pollfd){ t->pending ? t->in : -1, POLLOUT, 0 };
		}
		if (sys5(NR_ppoll, polls, n, 0, 0, 8) < 0)
			continue;
		n = 2;
		for (int i = 0; i < TASKS_MAX; i++) {
			struct task *t = &tasks[i];
			if (!t->pid)
				continue;
			if (polls[n++].revents)
				task_output(t, &t->out);
			if (polls[n++].revents)
				task_output(t, &t->err);
			if (polls[n++].revents)
				task_input(t);
		}
		/* After the outputs, as both may free or fill slots that `polls` no longer describes. */
		if (polls[0].revents)
			reap(signals);
		if (polls[1].revents && channel_fd >= 0)
			channel_receive(take);
	}
}

int agent_main(void)
{
	u64 child_died = 1UL << (17 - 1);
	boot_mounts();
	boot_modules();
	boot_root();
	boot_loopback();
	sys4(NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &child_died, 0, 8);
	i64 signals = sys4(NR_signalfd4, -1, &child_died, 8, O_CLOEXEC);
	if (channel_open())
		send_ready();
	if (channel_fd < 0 || command_line_has("faultline.console=shell"))
		shell = boot_console_shell();
	serve((int)signals);
}
