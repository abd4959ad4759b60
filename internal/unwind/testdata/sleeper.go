// SPDX-License-Identifier: Apache-2.0

// A Go program that blocks in a system call with a known chain of callers.
package main

import (
	"os"
	"runtime"
	"syscall"
)

//go:noinline
func innermost(fd int, b []byte) int {
	n, _ := syscall.Read(fd, b)
	return n + 1
}

//go:noinline
func middle(fd int, b []byte) int { return innermost(fd, b) + 1 }

func main() {
	runtime.LockOSThread()
	r, _, err := os.Pipe()
	if err != nil {
		os.Exit(1)
	}
	os.Exit(middle(int(r.Fd()), make([]byte, 1)))
}
