/*
 * The byte channel to the host: the virtio console /dev/hvc0 as a raw terminal, in frames.
 * Writes block: the device's back-pressure reaches the commands through their pipes.
 */
#include "agent.h"

int channel_fd = -1;

struct kernel_termios {
	u32 iflag, oflag, cflag, lflag;
	u8 line, cc[19];
};
enum { VTIME = 5, VMIN = 6, CSIZE = 060, CS8 = 060, CREAD = 0200, CLOCAL = 04000 };

/* Until the terminal is raw it would echo, which is why the host says nothing before READY. */
static int make_raw(int fd)
{
	struct kernel_termios t;
	if (sys_ioctl(fd, AGENT_TCGETS, &t) < 0)
		return 0;
	t.iflag = t.oflag = t.lflag = 0;
	t.cflag = (t.cflag & ~(u32)CSIZE) | CS8 | CREAD | CLOCAL;
	t.cc[VMIN] = 1;
	t.cc[VTIME] = 0;
	return sys_ioctl(fd, AGENT_TCSETS, &t) >= 0;
}

int channel_open(void)
{
	i64 fd = sys_open("/dev/hvc0", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (!make_raw((int)fd)) {
		sys_close((int)fd);
		return 0;
	}
	channel_fd = (int)fd;
	return 1;
}

void channel_send(u8 type, u32 id, const void *payload, u32 length)
{
	static u8 frame[FRAME_MAX] __attribute__((aligned(8)));
	if (channel_fd < 0)
		return;
	frame[0] = (u8)length;
	frame[1] = (u8)(length >> 8);
	frame[2] = type;
	frame[3] = 0;
	put32(frame + 4, id);
	memcpy(frame + HEADER, payload, length);
	for (u32 at = 0; at < HEADER + length;) {
		i64 n = sys_write(channel_fd, frame + at, HEADER + length - at);
		if (n < 0 && n != -EINTR && n != -EAGAIN)
			return; /* the device is gone; PID 1 stays */
		if (n > 0)
			at += (u32)n;
	}
}

void channel_receive(void (*take)(u8 type, u32 id, const u8 *payload, u32 length))
{
	static u8 buffer[2 * FRAME_MAX] __attribute__((aligned(8)));
	static u32 have;
	i64 n = sys_read(channel_fd, buffer + have, sizeof buffer - have);
	if (n <= 0) {
		if (n != -EINTR && n != -EAGAIN) {
			sys_close(channel_fd);
			channel_fd = -1;
		}
		return;
	}
	have += (u32)n;
	u32 at = 0;
	while (have - at >= HEADER) {
		u32 length = get16(buffer + at);
		if (length > PAYLOAD_MAX) {
			/* Out of step; there is no mark to find the next frame by. */
			const char *text = "....frame too long";
			u8 error[24];
			memcpy(error, text, 18);
			put32(error, EINVAL);
			channel_send(ERROR, 0, error, 18);
			at = have;
			break;
		}
		if (have - at < HEADER + length)
			break;
		take(buffer[at + 2], get32(buffer + at + 4), buffer + at + HEADER, length);
		at += HEADER + length;
	}
	have -= at;
	memmove(buffer, buffer + at, have);
}
