// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ring makes an io_uring in this process and registers files with it: it holds them
// then, whether or not their descriptors are closed. -1 leaves a place empty. The
// caller closes the ring. The error wraps unix.EPERM where io_uring is disabled
// (sysctl kernel.io_uring_disabled).
func Ring(fds ...int32) (int, error) {
	var params [120]byte // struct io_uring_params
	r, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return -1, fmt.Errorf("io_uring_setup: %w", errno)
	}
	ring := int(r)
	unix.CloseOnExec(ring)
	const registerFiles = 2 // IORING_REGISTER_FILES
	_, _, errno = unix.Syscall6(unix.SYS_IO_URING_REGISTER, r, registerFiles,
		uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), 0, 0)
	if errno != 0 {
		unix.Close(ring)
		return -1, fmt.Errorf("io_uring_register: %w", errno)
	}
	return ring, nil
}
