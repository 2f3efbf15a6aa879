/* Bytes and strings. The names memcpy and friends are what the compiler itself calls. */
#include "agent.h"

void *memmove(void *to, const void *from, u64 n)
{
	u8 *d = to;
	const u8 *s = from;
	if (d < s)
		for (u64 i = 0; i < n; i++)
			d[i] = s[i];
	else
		while (n-- > 0)
			d[n] = s[n];
	return to;
}

void *memcpy(void *to, const void *from, u64 n)
{
	u8 *d = to;
	const u8 *s = from;
	u64 i = 0;
	/* By words where both are aligned: frames are, as the channel's buffers are. */
	if ((((u64)d | (u64)s) & 7) == 0)
		for (; i + 8 <= n; i += 8)
			*(u64 *)(d + i) = *(const u64 *)(s + i);
	for (; i < n; i++)
		d[i] = s[i];
	return to;
}

void *memset(void *to, int value, u64 n)
{
	u8 *d = to;
	for (u64 i = 0; i < n; i++)
		d[i] = (u8)value;
	return to;
}

u64 strlen(const char *s)
{
	u64 n = 0;
	while (s[n])
		n++;
	return n;
}

int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

int starts(const char *s, const char *prefix)
{
	while (*prefix && *s == *prefix)
		s++, prefix++;
	return *prefix == 0;
}

int append(char *to, u64 size, const char *s)
{
	u64 at = strlen(to), n = strlen(s);
	if (at + n >= size)
		return 0;
	memcpy(to + at, s, n + 1);
	return 1;
}

void append_number(char *to, u64 size, u64 value)
{
	char digits[24];
	int at = sizeof digits - 1;
	digits[at] = 0;
	do
		digits[--at] = (char)('0' + value % 10);
	while ((value /= 10) != 0);
	append(to, size, digits + at);
}

u32 get16(const u8 *at) { return at[0] | (u32)at[1] << 8; }
u32 get32(const u8 *at) { return get16(at) | get16(at + 2) << 16; }
void put32(u8 *at, u32 value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (u8)(value >> 8 * i);
}

i64 read_file(const char *path, char *to, u64 size)
{
	i64 fd = sys_open(path, O_RDONLY | O_CLOEXEC), n = 0, got = 0;
	if (fd < 0)
		return fd;
	while ((u64)n < size - 1 && (got = sys_read((int)fd, to + n, size - 1 - (u64)n)) > 0)
		n += got;
	sys_close((int)fd);
	to[n] = 0;
	return got < 0 ? got : n;
}

void say(const char *a, const char *b)
{
	char line[256] = "faultline-agent: ";
	append(line, sizeof line - 1, a);
	append(line, sizeof line - 1, b);
	append(line, sizeof line, "\n");
	sys_write(2, line, strlen(line));
}
