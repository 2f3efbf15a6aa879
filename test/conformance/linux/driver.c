// Runs memory scripts on this machine's own kernel: the oracle of `npm run conformance -- linux`.
//
// stdin: a script a line, steps between semicolons, each `PROCESS.CALL ARGUMENT…` as script.ts writes them.
// With the argument `probe` it only tells what this kernel offers, as machine.ts reads it.
// stdout: a line for each script, an outcome for each step between semicolons. Addresses count from WINDOW.
//
// Each script has processes of its own. They take turns: `next` is the step that is due, its process runs it,
// the others sleep. Steps of a process that isn't are run by process 0, and come to '-'.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define WINDOW 0x20000000ul
#define WINDOW_BYTES 0x1000000ul
#define PAGE 4096ul
#define PROCESSES 6
#define STEPS 512
#define ARGS 6
#define SOURCE_PAGES 2048

// Calls of userfaultfd that are newer than the headers of some distributions.
struct poison_call {
  struct uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
struct move_call {
  uint64_t dst, src, len, mode;
  int64_t move;
};
#define POISON_CALL _IOWR(0xaa, 8, struct poison_call)
#define MOVE_CALL _IOWR(0xaa, 5, struct move_call)

struct step {
  int process, args;
  char call[16];
  unsigned long arg[ARGS];
};

struct shared {
  int next;
  int alive[PROCESSES], parent[PROCESSES];
  int answering[PROCESSES]; // has its handler a message in hand?
  pid_t pid[PROCESSES];
  size_t used;
  char out[1 << 20];
};

static struct shared *shared;
static struct step steps[STEPS];
static int count, me, ufd = -1;
static char *source; // what UFFDIO_COPY copies from

// ---- outcomes -------------------------------------------------------------------------------------------

static void say(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  size_t room = sizeof shared->out - shared->used;
  int n = vsnprintf(shared->out + shared->used, room, format, ap);
  va_end(ap);
  if (n > 0 && (size_t)n < room) shared->used += n;
}

static void say_result(long result) {
  say("%ld", result == -1 ? -(long)errno : result);
}

// ---- touching -------------------------------------------------------------------------------------------

static __thread sigjmp_buf back;
static __thread volatile int touching;
static __thread int caught, caught_code;
static __thread void *caught_at;

static void on_fault(int signal, siginfo_t *info, void *context) {
  (void)context;
  if (!touching) _exit(100 + signal);
  caught = signal;
  caught_code = info->si_code;
  caught_at = info->si_addr;
  siglongjmp(back, 1);
}

static void catch_faults(void) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, 0);
  sigaction(SIGBUS, &action, 0);
}

// 0, or the signal that came instead.
static int touch(unsigned long at, int write, uint32_t *value) {
  volatile uint32_t *word = (volatile uint32_t *)at;
  if (sigsetjmp(back, 0)) {
    touching = 0;
    return caught;
  }
  touching = 1;
  if (write) *word = *value;
  else *value = *word;
  touching = 0;
  return 0;
}

static const char *fault_name(int signal) {
  if (signal == SIGSEGV) return "segv";
  return caught_code == BUS_MCEERR_AR ? "poison" : "bus";
}

static void do_touch(const struct step *s, int write) {
  uint32_t value = (uint32_t)s->arg[1];
  unsigned long at = WINDOW + s->arg[0];
  int signal = touch(at, write, &value);
  if (!signal) say(write ? "ok" : "ok %u", value);
  else say(caught_at == (void *)at ? "%s" : "%s elsewhere", fault_name(signal));
}

// ---- what is mapped -------------------------------------------------------------------------------------

// Calls `line` for each line of smaps of mappings in the window; `head` for those that begin one.
static void each_line(void (*line)(const char *text, unsigned long start, unsigned long end, int head)) {
  FILE *file = fopen("/proc/self/smaps", "r");
  char text[512];
  unsigned long start = 0, end = 0, from, to;
  while (file && fgets(text, sizeof text, file)) {
    int head = sscanf(text, "%lx-%lx ", &from, &to) == 2;
    if (head) start = from, end = to;
    if (start >= WINDOW && start < WINDOW + WINDOW_BYTES) line(text, start, end, head);
  }
  if (file) fclose(file);
}

// Figures that both sides tell; our-maps.ts has the same.
static int is_told(const char *name) {
  static const char *const told[] = {
      "KernelPageSize", "MMUPageSize",   "Rss",           "Pss",       "Pss_Dirty",
      "Shared_Clean",   "Shared_Dirty",  "Private_Clean", "Private_Dirty", "Anonymous",
      "AnonHugePages",  "Swap",          "Locked",        "THPeligible"};
  for (size_t i = 0; i < sizeof told / sizeof told[0]; i++)
    if (!strcmp(name, told[i])) return 1;
  return 0;
}

static void say_flags(const char *text) {
  char flag[8];
  for (int n; sscanf(text, " %7s%n", flag, &n) == 1; text += n)
    if (strcmp(flag, "sd")) say(" %s", flag); // soft-dirty is not in ours
  say("]");
}

static void say_maps_line(const char *text, unsigned long start, unsigned long end, int head) {
  char permissions[8] = "", key[64];
  unsigned long value;
  if (head) {
    sscanf(text, "%*s %7s", permissions);
    say(" [%lx-%lx %s", start - WINDOW, end - WINDOW, permissions);
  } else if (!strncmp(text, "VmFlags:", 8)) say_flags(text + 8);
  else if (sscanf(text, "%63[A-Za-z_]: %lu", key, &value) == 2 && is_told(key) && value > 0)
    say(" %s=%lu", key, value);
}

static void do_maps(const struct step *s) {
  (void)s;
  say("maps");
  each_line(say_maps_line);
}

static unsigned long dump_end, alike;
static char last_page[64];

// Pages that say the same, one after the other, are told once, with how many there are.
static void flush_pages(void) {
  if (alike > 1) say(" %s*%lu", last_page, alike);
  else if (alike == 1) say(" %s", last_page);
  alike = 0;
}

static void read_page(unsigned long at, char *text, size_t room) {
  static const unsigned offsets[] = {0, 8, 0x800};
  uint32_t v[3];
  for (int i = 0; i < 3; i++) {
    int signal = touch(at + offsets[i], 0, &v[i]);
    if (signal) {
      snprintf(text, room, "%s", fault_name(signal));
      return;
    }
  }
  if (v[0] | v[1] | v[2]) snprintf(text, room, "%u,%u,%u", v[0], v[1], v[2]);
  else snprintf(text, room, "0");
}

static void say_page(unsigned long at) {
  char text[sizeof last_page];
  read_page(at, text, sizeof text);
  if (alike && strcmp(text, last_page)) flush_pages();
  strcpy(last_page, text);
  alike++;
}

static void dump_line(const char *text, unsigned long start, unsigned long end, int head) {
  (void)text;
  if (!head) return;
  if (start != dump_end) {
    flush_pages();
    say(" [%lx]", start - WINDOW);
  }
  dump_end = end;
  for (unsigned long at = start; at < end; at += PAGE) say_page(at);
}

// The words at three places of every mapped page.
static void do_dump(const struct step *s) {
  (void)s;
  say("dump");
  dump_end = alike = 0;
  each_line(dump_line);
  flush_pages();
}

static void do_mincore(const struct step *s) {
  unsigned char vector[4096];
  memset(vector, 9, sizeof vector);
  long result = syscall(SYS_mincore, WINDOW + s->arg[0], s->arg[1], vector);
  say_result(result);
  for (unsigned i = 0; result == 0 && i < (s->arg[1] + PAGE - 1) / PAGE && i < sizeof vector; i++)
    say("%s%d", i ? "" : " ", vector[i] & 1);
}

// ---- calls ----------------------------------------------------------------------------------------------

static int limited; // by RLIMIT_MEMLOCK, and says so of what fails, which may be for that

static void do_mmap(const struct step *s) {
  unsigned long at = WINDOW + s->arg[0];
  long result = syscall(SYS_mmap, at, s->arg[1], s->arg[2], s->arg[3], -1, 0);
  int inside = (unsigned long)result >= WINDOW && (unsigned long)result < WINDOW + WINDOW_BYTES;
  if (result == -1) say_result(-1);
  else if (inside) say("at %lx", result - WINDOW);
  else {
    say("at another place");
    munmap((void *)result, s->arg[1]);
  }
}

static void do_mremap(const struct step *s) {
  unsigned long from = WINDOW + s->arg[0], to = s->arg[3] & MREMAP_FIXED ? WINDOW + s->arg[4] : 0;
  long result = syscall(SYS_mremap, from, s->arg[1], s->arg[2], s->arg[3], to);
  int inside = (unsigned long)result >= WINDOW && (unsigned long)result < WINDOW + WINDOW_BYTES;
  if (result == -1) say(limited && errno == EAGAIN ? "%ld limited" : "%ld", -(long)errno);
  else if (inside) say("at %lx", result - WINDOW);
  else {
    say("at another place");
    munmap((void *)result, s->arg[2]);
  }
}

static void do_range(const struct step *s, long number) {
  say_result(syscall(number, WINDOW + s->arg[0], s->arg[1], s->arg[2]));
}

// ---- userfaultfd ----------------------------------------------------------------------------------------

static void stop_handler(void);

static void do_uffd(const struct step *s) {
  stop_handler();
  if (ufd >= 0) close(ufd);
  ufd = (int)syscall(SYS_userfaultfd, s->arg[0]);
  say_result(ufd < 0 ? -1 : 0);
}

static void do_api(const struct step *s) {
  struct uffdio_api api = {.api = s->arg[0], .features = s->arg[1]};
  long result = ioctl(ufd, UFFDIO_API, &api);
  say_result(result);
}

static void do_register(const struct step *s) {
  struct uffdio_register r = {{WINDOW + s->arg[0], s->arg[1]}, s->arg[2], 0};
  long result = ioctl(ufd, UFFDIO_REGISTER, &r);
  say_result(result);
  if (result == 0) say(" %llx", (unsigned long long)r.ioctls);
}

static void do_uffd_range(const struct step *s, unsigned long request) {
  struct uffdio_range r = {WINDOW + s->arg[0], s->arg[1]};
  say_result(ioctl(ufd, request, &r));
}

static void say_done(long result, long long done) {
  say_result(result);
  say(" %lld", done);
}

// The result field is told as it was left: -77 is "not written".
#define UNTOUCHED (-77)

static void do_copy(const struct step *s, unsigned long from) {
  struct uffdio_copy c = {WINDOW + s->arg[0], from, s->arg[1], s->arg[2], UNTOUCHED};
  long result = ioctl(ufd, UFFDIO_COPY, &c);
  say_done(result, c.copy);
}

static void fill_source(unsigned long bytes, uint32_t value) {
  for (unsigned long at = 0; at < bytes && at < SOURCE_PAGES * PAGE; at += PAGE)
    *(uint32_t *)(source + at) = value + at / PAGE;
}

static void do_zeropage(const struct step *s) {
  struct uffdio_zeropage z = {{WINDOW + s->arg[0], s->arg[1]}, s->arg[2], UNTOUCHED};
  long result = ioctl(ufd, UFFDIO_ZEROPAGE, &z);
  say_done(result, z.zeropage);
}

static void do_writeprotect(const struct step *s) {
  struct uffdio_writeprotect w = {{WINDOW + s->arg[0], s->arg[1]}, s->arg[2]};
  say_result(ioctl(ufd, UFFDIO_WRITEPROTECT, &w));
}

static void do_poison(const struct step *s) {
  struct poison_call p = {{WINDOW + s->arg[0], s->arg[1]}, s->arg[2], UNTOUCHED};
  long result = ioctl(ufd, POISON_CALL, &p);
  say_done(result, p.updated);
}

static void do_continue(const struct step *s) {
  struct uffdio_continue c = {{WINDOW + s->arg[0], s->arg[1]}, s->arg[2], UNTOUCHED};
  long result = ioctl(ufd, UFFDIO_CONTINUE, &c);
  say_done(result, c.mapped);
}

static void do_move(const struct step *s) {
  struct move_call m = {WINDOW + s->arg[0], WINDOW + s->arg[1], s->arg[2], s->arg[3], UNTOUCHED};
  long result = ioctl(ufd, MOVE_CALL, &m);
  say_done(result, m.move);
}

static void say_address(unsigned long at) {
  if (at >= WINDOW && at <= WINDOW + WINDOW_BYTES) say(" %lx", at - WINDOW);
  else say(" elsewhere");
}

static void say_message(const struct uffd_msg *m) {
  if (m->event == UFFD_EVENT_PAGEFAULT) {
    say(" fault %llx", m->arg.pagefault.flags);
    say_address(m->arg.pagefault.address);
  } else if (m->event == UFFD_EVENT_REMAP) {
    say(" remap");
    say_address(m->arg.remap.from);
    say_address(m->arg.remap.to);
    say(" %llx", m->arg.remap.len);
  } else if (m->event == UFFD_EVENT_REMOVE || m->event == UFFD_EVENT_UNMAP) {
    say(m->event == UFFD_EVENT_REMOVE ? " remove" : " unmap");
    say_address(m->arg.remove.start);
    say_address(m->arg.remove.end);
  } else say(" event %x", m->event);
}

static void do_uread(const struct step *s) {
  struct uffd_msg messages[8];
  size_t bytes = s->args ? s->arg[0] : sizeof messages;
  long n = read(ufd, messages, bytes > sizeof messages ? sizeof messages : bytes);
  say_result(n);
  for (long i = 0; i < n / (long)sizeof messages[0]; i++) say_message(&messages[i]);
}

static void do_poll(const struct step *s) {
  (void)s;
  struct pollfd p = {.fd = ufd, .events = POLLIN | POLLOUT};
  int n = poll(&p, 1, 0);
  if (n < 0) say_result(-1);
  else say("%x", p.revents);
}

static void do_close(const struct step *s) {
  (void)s;
  stop_handler();
  long result = close(ufd);
  ufd = -1;
  say_result(result);
}

// ---- a handler in a thread of its own -------------------------------------------------------------------

#define HANDLED_MAX 4096
static pthread_t handler;
static int handling, handler_policy, handled;
static struct uffd_msg handled_message[HANDLED_MAX];

enum { POLICY_COPY = 1, POLICY_ZERO = 2, POLICY_POISON = 3 };

static void answer_missing(unsigned long at) {
  static char page[PAGE] __attribute__((aligned(4096)));
  if (handler_policy == POLICY_ZERO) {
    struct uffdio_zeropage z = {{at, PAGE}, 0, 0};
    ioctl(ufd, UFFDIO_ZEROPAGE, &z);
  } else if (handler_policy == POLICY_POISON) {
    struct poison_call p = {{at, PAGE}, 0, 0};
    ioctl(ufd, POISON_CALL, &p);
  } else {
    *(uint32_t *)page = 7000 + (at - WINDOW) / PAGE;
    struct uffdio_copy c = {at, (unsigned long)page, PAGE, 0, 0};
    ioctl(ufd, UFFDIO_COPY, &c);
  }
}

static void answer(const struct uffd_msg *m) {
  if (m->event == UFFD_EVENT_FORK) close(m->arg.fork.ufd);
  if (m->event != UFFD_EVENT_PAGEFAULT) return;
  unsigned long at = m->arg.pagefault.address & ~(PAGE - 1);
  if (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) {
    struct uffdio_writeprotect w = {{at, PAGE}, 0};
    ioctl(ufd, UFFDIO_WRITEPROTECT, &w);
  } else if (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) {
    struct uffdio_continue c = {{at, PAGE}, 0, 0};
    ioctl(ufd, UFFDIO_CONTINUE, &c);
  } else answer_missing(at);
}

static void *handle(void *unused) {
  (void)unused;
  struct pollfd p = {.fd = ufd, .events = POLLIN};
  while (__atomic_load_n(&handling, __ATOMIC_SEQ_CST)) {
    struct uffd_msg m;
    if (poll(&p, 1, 20) < 1) continue;
    // Set before the read, as that is what lets a fork go on.
    __atomic_store_n(&shared->answering[me], 1, __ATOMIC_SEQ_CST);
    if (read(ufd, &m, sizeof m) == sizeof m) {
      if (handled < HANDLED_MAX) handled_message[handled] = m;
      __atomic_add_fetch(&handled, 1, __ATOMIC_SEQ_CST);
      answer(&m);
    }
    __atomic_store_n(&shared->answering[me], 0, __ATOMIC_SEQ_CST);
  }
  return 0;
}

// Until the handler of a process is through with what it has read: a second at most, as the process may be gone.
static void await_handler(unsigned long process) {
  for (int i = 0; i < 20000 && __atomic_load_n(&shared->answering[process], __ATOMIC_SEQ_CST); i++) usleep(50);
}

static void stop_handler(void) {
  if (!handling) return;
  __atomic_store_n(&handling, 0, __ATOMIC_SEQ_CST);
  pthread_join(handler, 0);
}

// Opens a descriptor and answers what comes from it: a step of its own, so that no script can hang.
static void do_handler(const struct step *s) {
  stop_handler();
  if (ufd >= 0) close(ufd);
  ufd = (int)syscall(SYS_userfaultfd, O_NONBLOCK);
  struct uffdio_api api = {.api = UFFD_API, .features = s->arg[1]};
  if (ioctl(ufd, UFFDIO_API, &api)) {
    say_result(-1);
    close(ufd);
    ufd = -1;
    return;
  }
  handler_policy = (int)s->arg[0];
  handled = 0;
  handling = 1;
  say_result(pthread_create(&handler, 0, handle, 0));
}

// What the handler was told since it was last asked.
static void do_log(const struct step *s) {
  (void)s;
  say("log");
  if (handling) usleep(1000); // the last event may just have been read
  await_handler((unsigned long)me);
  for (int i = 0; i < handled && i < HANDLED_MAX; i++) say_message(&handled_message[i]);
  handled = 0;
}

// ---- a second thread that pages out, reads and forks ---------------------------------------------------

#define PAUSE_US 150
#define LINGER_US 200
#define READ_PAGES 24 // those that scripts use
static int racing;
static pthread_t racer;
static cpu_set_t everywhere; // as this program found it

// Each processor keeps pages that it has just made to itself for a while: so the thread is on all of them in turn.
static void go_on_elsewhere(int turn) {
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0, left = turn % CPU_COUNT(&everywhere); cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &everywhere) && left-- == 0) CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
}

static void fork_beside(int turn) {
  pid_t pid = fork();
  if (pid == 0) {
    if (turn % 2) usleep(LINGER_US);
    _exit(0);
  }
  if (pid > 0) waitpid(pid, 0, 0);
}

// ksmd is the machine's own: conditions.c turns it on.
static void *race(void *unused) {
  (void)unused;
  uint32_t ignored;
  for (int i = 0; __atomic_load_n(&racing, __ATOMIC_SEQ_CST); i++) {
    go_on_elsewhere(i);
    madvise((void *)WINDOW, WINDOW_BYTES, MADV_PAGEOUT);
    for (int page = i % 3; page < READ_PAGES; page += 3) touch(WINDOW + page * PAGE, 0, &ignored);
    if (i % 7 == 0) fork_beside(i);
    usleep(50);
  }
  return 0;
}

static void stop_race(void) {
  if (!racing) return;
  __atomic_store_n(&racing, 0, __ATOMIC_SEQ_CST);
  pthread_join(racer, 0);
}

static void do_race(const struct step *s) {
  (void)s;
  stop_race();
  sched_setaffinity(0, sizeof everywhere, &everywhere);
  racing = 1;
  say_result(pthread_create(&racer, 0, race, 0));
}

// Time for the others, of a length that nobody knows.
static void pause_in_race(void) {
  if (racing) usleep(rand() % PAUSE_US);
}

// ---- processes ------------------------------------------------------------------------------------------

static void advance(void) {
  say(";");
  __atomic_add_fetch(&shared->next, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, &shared->next, FUTEX_WAKE, 64, 0, 0, 0);
}

static void start_process(int process) {
  me = process;
  handling = handled = racing = 0; // those are the parent's
  alarm(3);
  if (ufd >= 0) close(ufd);
  ufd = -1;
}

// The child goes on with the script once it has let go of what was its parent's.
static int do_fork(const struct step *s) {
  unsigned long child = s->arg[0];
  if (child >= PROCESSES || shared->alive[child]) {
    say("-");
    return 0;
  }
  shared->parent[child] = me;
  pid_t pid = fork();
  if (pid < 0) {
    say_result(-1);
    return 0;
  }
  if (pid > 0) return 1;
  await_handler(shared->parent[child]); // it may not have closed the child's descriptor yet
  start_process((int)child);
  shared->pid[child] = getpid();
  shared->alive[child] = 1;
  say("0");
  return 0;
}

// A process that exits is waited for by its parent, or by process 0 if that is gone.
static void await_exit(int process) {
  waitpid(shared->pid[process], 0, 0);
  shared->alive[process] = 0;
  say("0");
}

struct call {
  const char *name;
  void (*run)(const struct step *);
};

static void do_write(const struct step *s) { do_touch(s, 1); }
static void do_read(const struct step *s) { do_touch(s, 0); }
static void do_munmap(const struct step *s) { do_range(s, SYS_munmap); }
static void do_mprotect(const struct step *s) { do_range(s, SYS_mprotect); }
static void do_madvise(const struct step *s) { do_range(s, SYS_madvise); }

static void do_lock(const struct step *s, long number) {
  long result = syscall(number, WINDOW + s->arg[0], s->arg[1], s->arg[2]);
  say_result(result);
  if (result < 0 && limited) say(" limited");
}

static void do_mlock(const struct step *s) { do_lock(s, SYS_mlock); }
static void do_mlock2(const struct step *s) { do_lock(s, SYS_mlock2); }
static void do_munlock(const struct step *s) { do_range(s, SYS_munlock); }
static void do_unregister(const struct step *s) { do_uffd_range(s, UFFDIO_UNREGISTER); }
static void do_wake(const struct step *s) { do_uffd_range(s, UFFDIO_WAKE); }
static void do_copyfrom(const struct step *s) { do_copy(s, WINDOW + s->arg[3]); }
static void do_copyvalue(const struct step *s) {
  fill_source(s->arg[1], (uint32_t)s->arg[3]);
  do_copy(s, (unsigned long)source);
}
// Takes the right to lock what it wants from this process, and sets how much it may.
static void do_memlock(const struct step *s) {
  struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  struct rlimit limit = {s->arg[0], s->arg[0]};
  long result = syscall(SYS_capget, &head, data);
  data[0].effective &= ~(1u << CAP_IPC_LOCK);
  if (result == 0) result = syscall(SYS_capset, &head, data);
  if (result == 0) result = setrlimit(RLIMIT_MEMLOCK, &limit);
  limited = result == 0;
  say_result(result);
}
static void do_thp(const struct step *s) { say_result(prctl(PR_SET_THP_DISABLE, !s->arg[0], 0, 0, 0)); }

static const struct call calls[] = {
    {"mmap", do_mmap},         {"munmap", do_munmap},   {"mprotect", do_mprotect},
    {"mremap", do_mremap},     {"madvise", do_madvise}, {"mlock", do_mlock},
    {"mlock2", do_mlock2},     {"munlock", do_munlock}, {"mincore", do_mincore},
    {"read", do_read},         {"write", do_write},     {"maps", do_maps},
    {"dump", do_dump},         {"uffd", do_uffd},       {"api", do_api},
    {"register", do_register}, {"unregister", do_unregister}, {"wake", do_wake},
    {"copy", do_copyvalue},    {"copyfrom", do_copyfrom}, {"zeropage", do_zeropage},
    {"writeprotect", do_writeprotect}, {"move", do_move}, {"poison", do_poison},
    {"continue", do_continue}, {"uread", do_uread},     {"poll", do_poll},
    {"close", do_close},       {"handler", do_handler}, {"log", do_log},
    {"race", do_race},         {"thp", do_thp},         {"memlock", do_memlock},
};

// Returns 1 when another process goes on.
static int run_step(const struct step *s) {
  if (!strcmp(s->call, "fork")) return do_fork(s);
  for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
    if (strcmp(s->call, calls[i].name)) continue;
    calls[i].run(s);
    return 0;
  }
  say("no such call");
  return 0;
}

static int is_mine(const struct step *s) {
  int process = s->process;
  if (!shared->alive[process]) return me == 0;
  if (strcmp(s->call, "exit")) return process == me;
  if (process == me) {
    if (me != 0) _exit(0);
    return 1;
  }
  int parent = shared->parent[process];
  return (shared->alive[parent] ? parent : 0) == me;
}

static void take_turn(const struct step *s) {
  if (!shared->alive[s->process] || (s->process == 0 && !strcmp(s->call, "exit"))) say("-");
  else if (!strcmp(s->call, "exit")) await_exit(s->process);
  else if (run_step(s)) return;
  advance();
}

static void run_process(void) {
  for (int i; (i = __atomic_load_n(&shared->next, __ATOMIC_SEQ_CST)) < count;) {
    if (is_mine(&steps[i])) {
      pause_in_race();
      take_turn(&steps[i]);
    }
    // The others, and the parent of a child that goes on.
    while (__atomic_load_n(&shared->next, __ATOMIC_SEQ_CST) == i)
      syscall(SYS_futex, &shared->next, FUTEX_WAIT, i, 0, 0, 0);
  }
}

// ---- scripts --------------------------------------------------------------------------------------------

static int parse_step(char *text, struct step *s) {
  int at = 0, n;
  if (sscanf(text, " %d.%15[a-z0-9]%n", &s->process, s->call, &at) != 2) return 0;
  if (s->process < 0 || s->process >= PROCESSES) return 0;
  for (s->args = 0; s->args < ARGS; s->args++, at += n) {
    char word[32];
    if (sscanf(text + at, " %31s%n", word, &n) != 1) break;
    s->arg[s->args] = strtoul(word, 0, 0);
  }
  for (int i = s->args; i < ARGS; i++) s->arg[i] = 0;
  return 1;
}

static void parse_script(char *line) {
  count = 0;
  for (char *save, *text = strtok_r(line, ";\n", &save); text; text = strtok_r(0, ";\n", &save))
    if (count < STEPS && parse_step(text, &steps[count])) count++;
}

static void run_first_process(void) {
  setpgid(0, 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  start_process(0);
  run_process();
  stop_race();
  stop_handler();
  while (waitpid(-1, 0, 0) > 0) continue;
  _exit(0);
}

// What says that this machine had no huge page to give, or could not split one that somebody held for a moment.
static long misses(void) {
  static const char *const counted[] = {
      "thp_fault_fallback", "thp_collapse_alloc_failed", "thp_zero_page_alloc_failed", "thp_split_page_failed",
      "thp_underused_split_page"};
  FILE *file = fopen("/proc/vmstat", "r");
  char key[64];
  long value, sum = 0;
  while (file && fscanf(file, "%63s %ld", key, &value) == 2)
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++)
      if (!strcmp(key, counted[i])) sum += value;
  if (file) fclose(file);
  return sum;
}

static int wants_huge(void) {
  for (int i = 0; i < count; i++)
    if (!strcmp(steps[i].call, "thp")) return 1;
  return 0;
}

static void run_script(char *line) {
  parse_script(line);
  int huge = wants_huge();
  long before = huge ? misses() : 0;
  memset(shared, 0, offsetof(struct shared, out));
  shared->alive[0] = 1;
  pid_t pid = fork();
  if (pid == 0) run_first_process();
  int status = 0;
  waitpid(pid, &status, 0);
  if (status != 0) {
    kill(-pid, SIGKILL);
    say("died %d;", status);
  }
  if (huge && misses() != before) say("no huge page;");
  printf("%.*s\n", (int)shared->used, shared->out);
  fflush(stdout);
}

// One processor: what waits in a processor's own list of pages is then always at hand.
static void stay_here(void) {
  cpu_set_t set;
  sched_getaffinity(0, sizeof everywhere, &everywhere);
  CPU_ZERO(&set);
  CPU_SET(sched_getcpu(), &set);
  sched_setaffinity(0, sizeof set, &set);
}

// What machine.ts decides by: errno of userfaultfd(2), errno of its handshake, the features that it offers.
static int probe(void) {
  struct uffdio_api api = {.api = UFFD_API};
  int opened = (int)syscall(SYS_userfaultfd, O_NONBLOCK);
  int refused = opened < 0 ? errno : 0;
  int failed = opened >= 0 && ioctl(opened, UFFDIO_API, &api) ? errno : 0;
  printf("userfaultfd %d %d %llx\n", refused, failed, (unsigned long long)api.features);
  return 0;
}

// Scripts lock less than a MiB. Where even that is forbidden, differences.ts says why ours is not.
static void allow_locking(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit)) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_MEMLOCK, &limit);
}

int main(int count_of_words, char **words) {
  static char line[1 << 16];
  if (count_of_words > 1 && !strcmp(words[1], "probe")) return probe();
  shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  source = mmap(0, SOURCE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  stay_here();
  allow_locking();
  catch_faults();
  while (fgets(line, sizeof line, stdin)) run_script(line);
  return 0;
}
