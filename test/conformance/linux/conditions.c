// What racing scripts need of this machine: swap, so that MADV_PAGEOUT takes pages away, and ksmd at full speed.
// Usage: conditions FOLDER. Needs root; FOLDER is where a file for swap may lie.
//
// stdin: `on` and `off`, a line each. stdout: a line for each: `on AREA`, or `refused WHY`; `off OUT SHARING COW`: pages
// swapped out since, by how much the pages that ksmd shares were more than before at most, writes to such pages. At the end of stdin, however it comes
// about, all is as it was. Signals of a terminal are ignored: whoever sent them ends the other side, and so this one.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#define KSM "/sys/kernel/mm/ksm/"
#define CONTROL "/sys/class/zram-control/"
#define PAGE 4096ul
#define SWAP_BYTES (64ul << 20)
#define SAMPLE_MS 2

struct setting {
  const char *path, *racing;
  char before[32];
};

// In this order; `run` is the last to be set and the first to be put back.
static struct setting settings[] = {
    {KSM "pages_to_scan", "500", ""}, {KSM "sleep_millisecs", "0", ""}, {KSM "smart_scan", "0", ""},
    {KSM "use_zero_pages", "0", ""},  {KSM "run", "1", ""},
};
#define SETTINGS (int)(sizeof settings / sizeof settings[0])

static char swap_path[256]; // a device of our own, or a file; empty before and after
static int zram_number = -1, is_on, lock = -1;
static const char *refusal;

static int read_text(const char *path, char *text, int room) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = read(fd, text, room - 1);
  close(fd);
  if (n < 0) return -1;
  text[n] = 0;
  text[strcspn(text, "\n")] = 0;
  return 0;
}

static int write_text(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = write(fd, text, strlen(text));
  close(fd);
  return n == (ssize_t)strlen(text) ? 0 : -1;
}

static long vmstat(const char *name) {
  char key[64];
  long value, found = 0;
  FILE *file = fopen("/proc/vmstat", "r");
  while (file && fscanf(file, "%63s %ld", key, &value) == 2)
    if (!strcmp(key, name)) found = value;
  if (file) fclose(file);
  return found;
}

// ---- swap -----------------------------------------------------------------------------------------------

// The header of an empty swap area: the version and the last page at 1024, the signature at the end of the page.
static int write_header(const char *path) {
  static uint8_t page[PAGE];
  uint32_t info[3] = {1, SWAP_BYTES / PAGE - 1, 0};
  memset(page, 0, sizeof page);
  memcpy(page + 1024, info, sizeof info);
  memcpy(page + PAGE - 10, "SWAPSPACE2", 10);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  int ok = pwrite(fd, page, PAGE, 0) == (ssize_t)PAGE && fsync(fd) == 0;
  close(fd);
  return ok ? 0 : -1;
}

// A compressed device that nobody else has: made for us, so that it clashes with no other's.
static int make_zram(void) {
  char text[32], path[128];
  if (read_text(CONTROL "hot_add", text, sizeof text)) return -1;
  zram_number = atoi(text);
  snprintf(path, sizeof path, "/sys/block/zram%d/disksize", zram_number);
  snprintf(text, sizeof text, "%lu", SWAP_BYTES);
  snprintf(swap_path, sizeof swap_path, "/dev/zram%d", zram_number);
  return write_text(path, text) || write_header(swap_path) ? -1 : 0;
}

static void remove_zram(void) {
  char text[32], path[128];
  if (zram_number < 0) return;
  snprintf(path, sizeof path, "/sys/block/zram%d/reset", zram_number);
  snprintf(text, sizeof text, "%d", zram_number);
  write_text(path, "1");
  write_text(CONTROL "hot_remove", text);
  zram_number = -1;
}

static int make_file(const char *folder) {
  static uint8_t zeros[1 << 16];
  snprintf(swap_path, sizeof swap_path, "%s/swap", folder);
  int fd = open(swap_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return -1;
  int ok = 1;
  for (unsigned long at = 0; ok && at < SWAP_BYTES; at += sizeof zeros)
    ok = write(fd, zeros, sizeof zeros) == (ssize_t)sizeof zeros;
  close(fd);
  return ok ? write_header(swap_path) : -1;
}

// swapon itself tells whether an area will do: not every file system's files can be swapped to.
static int try_swap(int made) {
  if (made || swapon(swap_path, 0)) return -1;
  swapoff(swap_path);
  return 0;
}

static void drop_area(void) {
  if (zram_number >= 0) remove_zram();
  else if (swap_path[0]) unlink(swap_path);
  swap_path[0] = 0;
}

static int find_area(const char *folder) {
  if (try_swap(make_zram()) == 0) return 0;
  drop_area();
  if (try_swap(make_file(folder)) == 0) return 0;
  drop_area();
  return -1;
}

// ---- on and off -----------------------------------------------------------------------------------------

static void put_back(int count) {
  while (count-- > 0) write_text(settings[count].path, settings[count].before);
}

// Others who do the same are kept out meanwhile, so that each finds the settings as the machine has them.
static int take_ksm(void) {
  lock = open(KSM "run", O_RDONLY | O_CLOEXEC);
  if (lock < 0 || flock(lock, LOCK_EX)) return -1;
  for (int i = 0; i < SETTINGS; i++) {
    struct setting *s = &settings[i];
    // Older kernels have fewer.
    if (access(s->path, F_OK)) continue;
    if (read_text(s->path, s->before, sizeof s->before) == 0 && write_text(s->path, s->racing) == 0) continue;
    put_back(i);
    close(lock);
    return -1;
  }
  return 0;
}

static int turn_on(const char *folder) {
  if (!swap_path[0] && find_area(folder)) {
    refusal = "no swap may be set up here";
    return -1;
  }
  if (take_ksm()) {
    refusal = "no KSM here that may be set";
    return -1;
  }
  if (swapon(swap_path, 0)) {
    refusal = "swapon fails";
    put_back(SETTINGS);
    close(lock);
    return -1;
  }
  is_on = 1;
  return 0;
}

static void turn_off(void) {
  if (!is_on) return;
  swapoff(swap_path);
  put_back(SETTINGS);
  close(lock);
  is_on = 0;
}

static long sharing(void) {
  char text[32];
  return read_text(KSM "pages_sharing", text, sizeof text) ? 0 : atol(text);
}

// Until there is something to read. Returns how many more pages were shared at most.
static long watch(long before) {
  struct pollfd in = {.fd = 0, .events = POLLIN};
  long most = 0;
  while (poll(&in, 1, is_on ? SAMPLE_MS : -1) == 0) {
    long now = sharing() - before;
    if (now > most) most = now;
  }
  return most;
}

int main(int count, char **words) {
  char line[64];
  long out = 0, cow = 0, shared = 0;
  if (count < 2) return 2;
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  setvbuf(stdin, 0, _IONBF, 0);
  setvbuf(stdout, 0, _IOLBF, 0);
  for (long most = watch(0); fgets(line, sizeof line, stdin); most = watch(shared)) {
    if (!strcmp(line, "on\n")) {
      int failed = is_on ? 0 : turn_on(words[1]);
      out = vmstat("pswpout");
      cow = vmstat("cow_ksm");
      shared = sharing();
      if (failed) printf("refused %s\n", refusal);
      else printf("on %s\n", swap_path);
    } else {
      turn_off();
      printf("off %ld %ld %ld\n", vmstat("pswpout") - out, most, vmstat("cow_ksm") - cow);
    }
  }
  turn_off();
  drop_area();
  return 0;
}
