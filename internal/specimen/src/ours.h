/* SPDX-License-Identifier: Apache-2.0 */
/* What libours.so gives to the programs. */
#ifndef OURS_H
#define OURS_H

#include <sys/socket.h>

/* noipa: no caller may be merged, cloned or fitted to what it calls, so each has a frame. */
#define FRAME __attribute__((noinline, noclone, noipa))

/* ours_repeat calls one(arg) some times, and gives the last result. */
int ours_repeat(int times, int (*one)(void *), void *arg);

/* ours_socket_connect gives a new socket that is connected, or -1 and errno. */
int ours_socket_connect(const struct sockaddr *to, socklen_t len);

/* ours_socket_accept gives the next connection of a listener, or -1 and errno. */
int ours_socket_accept(int listener);

#endif
