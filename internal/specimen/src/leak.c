// SPDX-License-Identifier: Apache-2.0
// A program that makes a connection for each line of its standard input, through a known
// chain of callers, and keeps it. Usage: leak connect|accept ADDRESS PORT
//
// It answers a line with "LOCALPORT FD"; the line "close" closes all that is kept, and is
// answered with "closed". accept begins with "listening PORT". The end of the input ends it.
#include "ours.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* task is what to do for a line. */
struct task {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} at;
	socklen_t len;
	int listener; /* -1: connect */
};

static int *kept;
static int keeps;
static volatile int returned;

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static void keep(int fd)
{
	kept = realloc(kept, (keeps + 1) * sizeof(*kept));
	if (!kept)
		fail("keep");
	kept[keeps++] = fd;
}

static void close_all(void)
{
	while (keeps > 0)
		close(kept[--keeps]);
	puts("closed");
	fflush(stdout);
}

static int port_of(int fd)
{
	struct task own = {.len = sizeof(own.at)};
	if (getsockname(fd, &own.at.any, &own.len) < 0)
		fail("getsockname");
	return ntohs(own.at.any.sa_family == AF_INET ? own.at.v4.sin_port : own.at.v6.sin6_port);
}

FRAME static int open_one(void *arg)
{
	const struct task *task = arg;
	int fd;
	if (task->listener < 0)
		fd = ours_socket_connect(&task->at.any, task->len);
	else
		fd = ours_socket_accept(task->listener);
	if (fd < 0)
		fail(task->listener < 0 ? "connect" : "accept");
	keep(fd);
	printf("%d %d\n", port_of(fd), fd);
	fflush(stdout);
	return fd;
}

FRAME static void serve(struct task *task)
{
	char *line = NULL;
	size_t size = 0;
	while (getline(&line, &size, stdin) >= 0) {
		if (strcmp(line, "close\n") == 0)
			close_all();
		else
			ours_repeat(1, open_one, task);
		returned++;
	}
	free(line);
}

static void parse(struct task *task, const char *address, const char *port)
{
	if (inet_pton(AF_INET, address, &task->at.v4.sin_addr) == 1) {
		task->at.v4.sin_family = AF_INET;
		task->at.v4.sin_port = htons(atoi(port));
		task->len = sizeof(task->at.v4);
	} else if (inet_pton(AF_INET6, address, &task->at.v6.sin6_addr) == 1) {
		task->at.v6.sin6_family = AF_INET6;
		task->at.v6.sin6_port = htons(atoi(port));
		task->len = sizeof(task->at.v6);
	} else {
		errno = EINVAL;
		fail(address);
	}
}

static void start_listening(struct task *task)
{
	task->listener = socket(task->at.any.sa_family, SOCK_STREAM, 0);
	if (task->listener < 0 || bind(task->listener, &task->at.any, task->len) < 0 || listen(task->listener, 128) < 0)
		fail("listen");
	printf("listening %d\n", port_of(task->listener));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct task task = {.listener = -1};
	if (argc != 4 || (strcmp(argv[1], "connect") && strcmp(argv[1], "accept"))) {
		fprintf(stderr, "usage: leak connect|accept ADDRESS PORT\n");
		return 1;
	}
	parse(&task, argv[2], argv[3]);
	if (strcmp(argv[1], "accept") == 0)
		start_listening(&task);
	serve(&task);
	returned++;
	return 0;
}
