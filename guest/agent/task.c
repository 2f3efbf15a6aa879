/* Commands: started with vfork and exec, their pipes or terminal carried over the channel. */
#include "agent.h"

struct task tasks[TASKS_MAX];

static u8 request[REQUEST_MAX + 1];
static u32 request_length;
static char *strings[STRINGS_MAX + 3];

/* What the child needs; filled before, read after, the vfork. */
static struct launch {
	char **argv, **envp;
	const char *cwd;
	const char *terminal; /* NULL: the three descriptors */
	int in, out, err;
	i64 failure; /* the child's, told through shared memory */
	const char *what;
} launch;
static u8 child_stack[16384] __attribute__((aligned(16)));

static void send_error(u32 id, i64 error, const char *a, const char *b)
{
	u8 payload[512];
	char *text = (char *)payload + 4;
	put32(payload, (u32)-error);
	text[0] = 0;
	append(text, sizeof payload - 4, a);
	if (!append(text, sizeof payload - 4, b))
		append(text, sizeof payload - 4, "...");
	channel_send(ERROR, id, payload, 4 + (u32)strlen(text));
}

static void send_exit(u32 id, u32 code, u32 signal)
{
	u8 payload[8];
	put32(payload, code);
	put32(payload + 4, signal);
	channel_send(EXIT, id, payload, 8);
}

static struct task *find(u32 id)
{
	for (int i = 0; i < TASKS_MAX; i++)
		if (tasks[i].pid && tasks[i].id == id)
			return &tasks[i];
	return 0;
}

static void close_end(int *fd)
{
	if (*fd >= 0)
		sys_close(*fd);
	*fd = -1;
}

static const char *variable(char **envp, const char *name)
{
	u64 n = strlen(name);
	for (; *envp; envp++)
		if (starts(*envp, name) && (*envp)[n] == '=')
			return *envp + n + 1;
	return 0;
}

/* execvp's search: a file that may not be run is remembered, the next directory tried. */
static i64 exec_path(const char *name, char **argv, char **envp)
{
	static char path[4096];
	const char *list = variable(envp, "PATH");
	i64 result = -ENOENT;
	if (!list)
		list = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	for (const char *at = name; *at; at++)
		if (*at == '/')
			return sys3(NR_execve, name, argv, envp);
	while (*name && *list) {
		u64 n = 0;
		while (list[n] && list[n] != ':')
			n++;
		if (n + strlen(name) + 2 <= sizeof path) {
			memcpy(path, list, n);
			path[n] = 0;
			append(path, sizeof path, n ? "/" : "./");
			append(path, sizeof path, name);
			i64 r = sys3(NR_execve, path, argv, envp);
			if (r != -ENOENT && r != -ENOTDIR)
				result = r;
		}
		list += n + (list[n] == ':');
	}
	return result;
}

static void child(void *arg)
{
	struct launch *l = arg;
	u64 none = 0;
	i64 r;
	sys0(NR_setsid);
	if (l->terminal) {
		r = sys_open(l->terminal, O_RDWR);
		if (r >= 0) {
			sys_ioctl((int)r, AGENT_TIOCSCTTY, 0);
			l->in = l->out = l->err = (int)r;
		}
		l->what = l->terminal;
		if (r < 0)
			goto failed;
	}
	int closes = l->terminal ? l->in : -1;
	sys3(NR_dup3, l->in, 0, 0);
	sys3(NR_dup3, l->out, 1, 0);
	sys3(NR_dup3, l->err, 2, 0);
	if (closes > 2)
		sys_close(closes);
	sys4(NR_rt_sigprocmask, 2, &none, 0, 8);
	l->what = l->cwd;
	if (l->cwd[0] && (r = sys1(NR_chdir, l->cwd)) < 0)
		goto failed;
	l->what = l->argv[0];
	r = exec_path(l->argv[0], l->argv, l->envp);
failed:
	l->failure = r;
	sys1(NR_exit_group, 127);
}

static void start_child(struct task *t)
{
	launch.failure = 0;
	i64 pid = spawn_vfork(child, &launch, child_stack + sizeof child_stack);
	if (pid < 0 || launch.failure) {
		i64 error = pid < 0 ? pid : launch.failure;
		if (pid > 0)
			sys4(NR_wait4, pid, 0, 0, 0);
		close_end(&t->in);
		if (!t->tty)
			close_end(&t->out);
		close_end(&t->err);
		t->out = -1;
		send_error(t->id, error, pid < 0 ? "fork" : launch.what, "");
		send_exit(t->id, error == -ENOENT || error == -ENOTDIR ? 127 : 126, 0);
		return;
	}
	u8 payload[4];
	t->pid = pid;
	put32(payload, (u32)pid);
	channel_send(STARTED, t->id, payload, 4);
}

static void nonblocking(int fd) { sys3(NR_fcntl, fd, 4 /* F_SETFL */, O_NONBLOCK); }

static i64 start_on_pipes(struct task *t)
{
	int p[3][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 } };
	i64 r = 0;
	for (int i = 0; i < 3 && r >= 0; i++)
		r = sys2(NR_pipe2, p[i], O_CLOEXEC);
	if (r >= 0) {
		t->in = p[0][1];
		t->out = p[1][0];
		t->err = p[2][0];
		nonblocking(t->in);
		nonblocking(t->out);
		nonblocking(t->err);
		launch.terminal = 0;
		launch.in = p[0][0];
		launch.out = p[1][1];
		launch.err = p[2][1];
		start_child(t);
	}
	close_end(&p[0][0]);
	close_end(&p[1][1]);
	close_end(&p[2][1]);
	if (r < 0)
		close_end(&p[0][1]), close_end(&p[1][0]), close_end(&p[2][0]);
	return r;
}

static void resize(struct task *t, u32 rows, u32 columns)
{
	u16 size[4] = { (u16)rows, (u16)columns, 0, 0 };
	sys_ioctl(t->in, AGENT_TIOCSWINSZ, size);
}

static i64 start_on_terminal(struct task *t, u32 rows, u32 columns)
{
	static char name[32];
	u32 number = 0, unlock = 0;
	i64 fd = sys_open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return fd;
	sys_ioctl((int)fd, AGENT_TIOCSPTLCK, &unlock);
	sys_ioctl((int)fd, AGENT_TIOCGPTN, &number);
	name[0] = 0;
	append(name, sizeof name, "/dev/pts/");
	append_number(name, sizeof name, number);
	t->in = t->out = (int)fd;
	t->err = -1;
	if (rows && columns)
		resize(t, rows, columns);
	launch.terminal = name;
	start_child(t);
	return 0;
}

/* EXEC's payload: flags, 0, rows, columns, argc, envc (u16 each but the first two), then the strings. */
static int parse(u32 *argc)
{
	u32 envc, at = 10, n = 0;
	if (request_length < 10)
		return 0;
	*argc = get16(request + 6);
	envc = get16(request + 8);
	if (*argc == 0 || *argc + envc > STRINGS_MAX)
		return 0;
	request[request_length] = 0;
	launch.cwd = (char *)request + at;
	for (; n < 1 + *argc + envc; n++) {
		if (at >= request_length)
			return 0;
		/* strings[0..argc) are arguments, [argc] NULL, then the variables and NULL */
		if (n > 0)
			strings[n - 1 + (n > *argc)] = (char *)request + at;
		at += (u32)strlen((char *)request + at) + 1;
	}
	strings[*argc] = 0;
	strings[*argc + 1 + envc] = 0;
	launch.argv = strings;
	launch.envp = strings + *argc + 1;
	return at == request_length;
}

static void exec(u32 id)
{
	struct task *t = 0;
	u32 argc;
	i64 r;
	for (int i = 0; i < TASKS_MAX && !t; i++)
		if (!tasks[i].pid)
			t = &tasks[i];
	if (!parse(&argc))
		r = -EINVAL;
	else if (!t || find(id))
		r = t ? -EEXIST : -EAGAIN;
	else {
		t->id = id;
		t->tty = request[0] & 1;
		t->eof = 0;
		t->pending = t->credit = 0;
		r = t->tty ? start_on_terminal(t, get16(request + 2), get16(request + 4)) : start_on_pipes(t);
	}
	if (r < 0) {
		send_error(id, r, "exec", "");
		send_exit(id, 126, 0);
	}
}

static void grant(struct task *t, int all)
{
	u8 payload[4];
	if (t->credit == 0 || (!all && t->credit < STDIN_WINDOW / 4))
		return;
	put32(payload, t->credit);
	t->credit = 0;
	channel_send(WINDOW, t->id, payload, 4);
}

/* Writes what the command takes. One that closed its input still gets its window back, for nothing. */
void task_input(struct task *t)
{
	u32 done = 0;
	while (done < t->pending && t->in >= 0) {
		i64 n = sys_write(t->in, t->input + done, t->pending - done);
		if (n == -EAGAIN)
			break;
		if (n > 0)
			done += (u32)n;
		else if (n != -EINTR && !t->tty)
			close_end(&t->in);
		else if (n != -EINTR)
			break;
	}
	if (t->in < 0)
		done = t->pending;
	memmove(t->input, t->input + done, t->pending - done);
	t->pending -= done;
	t->credit += done;
	grant(t, t->pending == 0);
	if (t->eof && t->pending == 0 && t->in >= 0) {
		t->eof = 0;
		if (t->tty)
			sys_write(t->in, "\4", 1);
		else
			close_end(&t->in);
	}
}

static void take_input(struct task *t, const u8 *payload, u32 length)
{
	if (t->eof || t->pending + t->credit + length > STDIN_WINDOW) {
		send_error(t->id, -ENOSPC, "stdin window", "");
		return;
	}
	memcpy(t->input + t->pending, payload, length);
	t->pending += length;
	task_input(t);
}

/* Carries at most one frame of output, so that no command starves another. */
void task_output(struct task *t, int *fd)
{
	static u8 buffer[PAYLOAD_MAX] __attribute__((aligned(8)));
	i64 n = sys_read(*fd, buffer, sizeof buffer);
	if (n > 0)
		channel_send(fd == &t->err ? STDERR : STDOUT, t->id, buffer, (u32)n);
	else if (n != -EAGAIN && n != -EINTR && !t->tty)
		close_end(fd);
	else if (n != -EINTR)
		*fd = n == -EAGAIN ? *fd : -1; /* a terminal's last user left; `in` still names it */
}

/* What the command wrote before it left still goes; what a daemon it left writes later does not. */
static void drain(struct task *t, int *fd)
{
	u8 buffer[PAYLOAD_MAX];
	for (int i = 0; i < 272 && *fd >= 0; i++) {
		i64 n = sys_read(*fd, buffer, sizeof buffer);
		if (n <= 0)
			break;
		channel_send(fd == &t->err ? STDERR : STDOUT, t->id, buffer, (u32)n);
	}
}

void task_exited(struct task *t, u32 status)
{
	u32 signal = status & 0x7f;
	drain(t, &t->out);
	drain(t, &t->err);
	if (t->tty)
		t->out = -1;
	close_end(&t->in);
	close_end(&t->out);
	close_end(&t->err);
	t->pid = 0;
	send_exit(t->id, signal ? 128 + signal : status >> 8 & 0xff, signal);
}

static void add_to_request(const u8 *payload, u32 length)
{
	if (request_length + length <= REQUEST_MAX)
		memcpy(request + request_length, payload, length);
	request_length += length;
}

void task_request(u8 type, u32 id, const u8 *payload, u32 length)
{
	struct task *t = find(id);
	if (type == ARGS) {
		if (request_length <= REQUEST_MAX)
			add_to_request(payload, length);
	} else if (type == EXEC) {
		if (request_length <= REQUEST_MAX)
			add_to_request(payload, length);
		if (request_length > REQUEST_MAX) {
			send_error(id, -E2BIG, "exec", "");
			send_exit(id, 126, 0);
		} else
			exec(id);
		request_length = 0;
	} else if (!t)
		return; /* it has just left */
	else if (type == STDIN)
		take_input(t, payload, length);
	else if (type == STDIN_EOF) {
		t->eof = 1;
		task_input(t);
	} else if (type == KILL && length >= 4)
		sys2(NR_kill, -t->pid, get32(payload));
	else if (type == RESIZE && length >= 4 && t->tty)
		resize(t, get16(payload), get16(payload + 2));
}
