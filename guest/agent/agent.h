/* What the agent's parts know of each other. The protocol is docs/formats/agent.md. */
#ifndef AGENT_H
#define AGENT_H

#include "syscall.h"

enum {
	PROTOCOL_VERSION = 1,
	FRAME_MAX = 4096,
	HEADER = 8,
	PAYLOAD_MAX = FRAME_MAX - HEADER,
	STDIN_WINDOW = 16384,
	REQUEST_MAX = 131072, /* bytes of one EXEC, strings and all */
	TASKS_MAX = 32,
	STRINGS_MAX = 4096, /* arguments and variables of one EXEC */
};

/* Frame types; events have bit 7 set. */
enum {
	HELLO = 1, ARGS = 2, EXEC = 3, STDIN = 4, STDIN_EOF = 5, KILL = 6, RESIZE = 7, POWEROFF = 8,
	READY = 0x81, STARTED = 0x82, STDOUT = 0x83, STDERR = 0x84, EXIT = 0x85, ERROR = 0x86, WINDOW = 0x87,
};

/* util.c */
void *memcpy(void *to, const void *from, u64 n);
void *memmove(void *to, const void *from, u64 n);
void *memset(void *to, int value, u64 n);
u64 strlen(const char *s);
int equal(const char *a, const char *b);
int starts(const char *s, const char *prefix);
/* Appends s to the string at `to` (`size` bytes with the NUL); 0 if it does not fit. */
int append(char *to, u64 size, const char *s);
void append_number(char *to, u64 size, u64 value);
u32 get16(const u8 *at);
u32 get32(const u8 *at);
void put32(u8 *at, u32 value);
/* At most size - 1 bytes and a NUL; the length, or a negative errno. */
i64 read_file(const char *path, char *to, u64 size);
/* A line for people on the console. */
void say(const char *a, const char *b);

/* channel.c */
extern int channel_fd; /* -1 where there is none */
int channel_open(void);
void channel_send(u8 type, u32 id, const void *payload, u32 length);
/* Reads what has come and hands each whole frame to `take`. */
void channel_receive(void (*take)(u8 type, u32 id, const u8 *payload, u32 length));

/* task.c: commands run for the host */
struct task {
	u32 id;
	i64 pid; /* 0: the slot is free */
	int in, out, err; /* our ends, -1 when closed; in == out for a terminal */
	int tty;
	int eof; /* close `in` once `pending` is written */
	u32 pending, credit; /* bytes of input not yet written; written but not yet granted back */
	u8 input[STDIN_WINDOW];
};
extern struct task tasks[TASKS_MAX];
void task_request(u8 type, u32 id, const u8 *payload, u32 length);
void task_output(struct task *t, int *fd);
void task_input(struct task *t);
void task_exited(struct task *t, u32 status);

/* boot.c */
void boot_mounts(void);
void boot_modules(void);
void boot_root(void);
void boot_loopback(void);
/* Starts a shell on the console; its pid. */
i64 boot_console_shell(void);
int command_line_has(const char *word);
void power_off(void) __attribute__((noreturn));

/* start.S */
i64 spawn_vfork(void (*fn)(void *), void *arg, void *stack_top);

#endif
