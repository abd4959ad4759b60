// SPDX-License-Identifier: Apache-2.0

// A program whose call is in a function of another file, which the compiler puts into
// its caller. It tells what site.c tells.
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

extern const char __ehdr_start[];
static volatile int begins;

__attribute__((noinline)) static void *here(void)
{
	__asm__ volatile("");
	return __builtin_return_address(0);
}

#line 7 "library.h"
static inline __attribute__((always_inline)) void *of_library(void) { return here(); }
#line 23 "testdata/inlined.c"

enum { LINE = __LINE__ + 2 }; // of the brace
__attribute__((noinline)) static int leak_here(int n)
{
	begins += n;
	printf("%p %d\n", of_library(), LINE);
	return n + 1;
}

int main(int argc, char **argv)
{
	char c;
	int n = leak_here(argc);

	printf("%p %p\n", (void *)__ehdr_start, (void *)(uintptr_t)accept);
	fflush(stdout);
	while (read(0, &c, 1) > 0)
		;
	return n == 0 || argv == NULL;
}
