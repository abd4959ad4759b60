// SPDX-License-Identifier: Apache-2.0
// Programs that block with a chain of callers that is known; the first argument picks one.
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))

void through_library(void (*callback)(int), int depth);

static volatile int sink;
static int in[2];

NOINLINE void block_read(int n)
{
	char byte;
	sink += read(in[0], &byte, 1) + n;
}

NOINLINE void block_accept(int n)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	bind(fd, &(struct sockaddr){ .sa_family = AF_UNIX }, sizeof(sa_family_t));
	listen(fd, 1);
	sink += accept(fd, 0, 0) + n;
}

NOINLINE void first(int n)
{
	char pad[200];
	memset(pad, n, sizeof(pad));
	block_accept(n + pad[n & 127]);
	sink += pad[n & 63];
}

NOINLINE void second(int n)
{
	first(n * 3);
	sink++;
}

/* The size is known at run time only, so the frame is found from rbp. */
NOINLINE void variable(int n)
{
	char *room = alloca(n + 100);
	memset(room, n, n + 100);
	block_read(room[n]);
	sink += room[n + 1];
}

NOINLINE void aligned(int n)
{
	char room[128] __attribute__((aligned(64)));
	memset(room, n, sizeof(room));
	variable(n + room[n & 31]);
	sink += room[n & 63];
}

NOINLINE void deep(int n)
{
	char room[256];
	memset(room, n, sizeof(room));
	if (n == 0)
		block_read(0);
	else
		deep(n - 1);
	sink += room[n & 63];
}

NOINLINE void handler(int signal)
{
	block_read(signal);
	sink++;
}

NOINLINE void spin(int n)
{
	signal(SIGUSR1, handler);
	raise(SIGUSR1);
	sink += n;
}

/* The signal comes in the middle of this one, with nothing pushed. */
NOINLINE void fault(int n)
{
	signal(SIGTRAP, handler);
	__asm__ volatile("int3" ::: "memory");
	sink += n;
}

NOINLINE void many(int n)
{
	if (n == 0)
		block_read(0);
	else
		many(n - 1);
	sink++;
}

NOINLINE void *thread(void *p)
{
	block_read(*(int *)p);
	sink++;
	return p;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (pipe(in) != 0)
		return 1;
	if (!strcmp(what, "library"))
		through_library(second, argc);
	else if (!strcmp(what, "variable"))
		aligned(argc);
	else if (!strcmp(what, "signal"))
		spin(argc);
	else if (!strcmp(what, "fault"))
		fault(argc);
	else if (!strcmp(what, "deep"))
		deep(100);
	else if (!strcmp(what, "many"))
		many(200);
	else if (!strcmp(what, "thread")) {
		pthread_t t;
		pthread_create(&t, 0, thread, &argc);
		pthread_join(t, 0);
	}
	return sink & 1;
}
