// SPDX-License-Identifier: Apache-2.0

// A program that tells where a call of its own returns to, and waits.
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

extern const char __ehdr_start[];

__attribute__((noinline)) static void *here(void)
{
	__asm__ volatile("");
	return __builtin_return_address(0);
}

__attribute__((noinline)) static int leak_here(int n)
{
	printf("%p %d\n", here(), __LINE__);
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
