// SPDX-License-Identifier: Apache-2.0
// libours.so: the part of the chain of callers that is in a shared library. The count
// after each call is work that is left to do, so that no call can be a jump.
#include "ours.h"

#include <errno.h>
#include <unistd.h>

static volatile int returned;

FRAME static int ours_inner(int (*one)(void *), void *arg)
{
	int result = one(arg);
	returned++;
	return result;
}

FRAME int ours_repeat(int times, int (*one)(void *), void *arg)
{
	int result = -1;
	for (int i = 0; i < times; i++)
		result = ours_inner(one, arg);
	returned++;
	return result;
}

FRAME int ours_socket_connect(const struct sockaddr *to, socklen_t len)
{
	int fd = socket(to->sa_family, SOCK_STREAM, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, to, len) < 0) {
		int why = errno;
		close(fd);
		errno = why;
		return -1;
	}
	returned++;
	return fd;
}

FRAME int ours_socket_accept(int listener)
{
	int fd = accept(listener, 0, 0);
	returned++;
	return fd;
}
