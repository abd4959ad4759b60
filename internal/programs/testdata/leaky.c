// SPDX-License-Identifier: Apache-2.0
// leaky PORT [MANY]: connects and never closes. Says what it holds, then waits for the
// end of its input. The first byte tells the test's server what to do: e: close, d: send
// 100 bytes and close.
//
// With MANY: that many connections closed by the server at once, to 127.0.1.0/24.
// Without: one of each kind, every second of them with another descriptor, and a child
// that holds all, too.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int dial(const char *host, int port, const char *wish)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, host, &to.sin_addr);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) || write(fd, wish, 1) != 1)
		err(1, "dial %s:%d", host, port);
	return fd;
}

static void wait_for_fin(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};

	if (poll(&p, 1, -1) != 1)
		err(1, "poll");
}

static void say(int fd, const char *verdict)
{
	struct sockaddr_in at;
	socklen_t size = sizeof(at);
	char text[INET_ADDRSTRLEN];

	if (getsockname(fd, (struct sockaddr *)&at, &size))
		err(1, "getsockname");
	printf("%d %d %s:%d %s\n", getpid(), fd, inet_ntop(AF_INET, &at.sin_addr, text, sizeof(text)), ntohs(at.sin_port), verdict);
}

static void hoard(int port, int many)
{
	struct rlimit all;
	char host[INET_ADDRSTRLEN];
	int fds[many];

	getrlimit(RLIMIT_NOFILE, &all);
	all.rlim_cur = all.rlim_max;
	setrlimit(RLIMIT_NOFILE, &all);
	for (int i = 0; i < many; i++) {
		snprintf(host, sizeof(host), "127.0.1.%d", i % 200 + 1);
		fds[i] = dial(host, port, "e");
	}
	for (int i = 0; i < many; i++) {
		wait_for_fin(fds[i]);
		say(fds[i], "eof_unread");
	}
}

static const struct {
	const char *wish, *verdict;
	int once; // the kernel takes the FIN with the data before it: no read has to return 0
} kinds[] = {{"e", "eof_unread"}, {"e", "eof_read"}, {"d", "data_unread"}, {"d", "eof_read"}, {"d", "eof_read", 1}};

enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static void each(int port)
{
	int fds[KINDS], again[KINDS];
	char buffer[4096];

	for (int i = 0; i < KINDS; i++) {
		fds[i] = dial("127.0.0.1", port, kinds[i].wish);
		again[i] = i % 2 ? dup(fds[i]) : -1;
		wait_for_fin(fds[i]);
		while (!strcmp(kinds[i].verdict, "eof_read") && read(fds[i], buffer, sizeof(buffer)) > 0 && !kinds[i].once)
			;
	}
	fork();
	for (int i = 0; i < KINDS; i++) {
		say(fds[i], kinds[i].verdict);
		if (again[i] >= 0)
			say(again[i], kinds[i].verdict);
	}
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 2)
		hoard(atoi(argv[1]), atoi(argv[2]));
	else
		each(atoi(argv[1]));
	puts("done");
	return getchar() != EOF;
}
