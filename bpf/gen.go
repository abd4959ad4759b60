// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the kernel side of afterfin, compiled: afterfin.bpf.c and
// its headers, and what bpf2go makes of them for amd64 and arm64. The objects
// are committed, so that building afterfin takes no clang.
package bpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -go-package bpf -no-global-types -cflags "-O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu" Afterfin afterfin.bpf.c
