// SPDX-License-Identifier: Apache-2.0
// A shared library in the middle of the chain, which calls back.
static volatile int sink;

__attribute__((noinline, noclone, noipa)) static void inner(void (*callback)(int), int depth)
{
	callback(depth + 1);
	sink++;
}

void through_library(void (*callback)(int), int depth)
{
	inner(callback, depth * 2);
	sink++;
}
