// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/vmtest/guest"
)

// console is the only writer to the guest's console.
type console struct {
	mu sync.Mutex
}

func (c *console) say(kind guest.Kind, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := guest.Line{Kind: kind, At: now(), Text: fmt.Sprintf(format, args...)}
	os.Stdout.WriteString(l.String() + "\n")
}

// takeKernelMessages makes the kernel stop writing to the console itself, where
// it would cut our lines in two, and passes its messages on. An oops or a panic
// still speaks for itself: the kernel then turns its console on again.
func (c *console) takeKernelMessages() error {
	const setConsoleLevel = 8 // SYSLOG_ACTION_CONSOLE_LEVEL
	if _, _, errno := unix.Syscall(unix.SYS_SYSLOG, setConsoleLevel, 0, 1); errno != 0 {
		return fmt.Errorf("silence the kernel: %w", errno)
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kmsg: %w", err)
	}
	// What the boot said comes before all else, so that the end of the log is
	// about the end of the guest.
	for {
		if err := c.passKernelMessage(func(b []byte) (int, error) { return unix.Read(fd, b) }); err != nil {
			break
		}
	}
	kmsg := os.NewFile(uintptr(fd), "/dev/kmsg")
	go func() {
		for c.passKernelMessage(kmsg.Read) == nil {
		}
	}()
	return nil
}

// passKernelMessage reads one message, and says it.
func (c *console) passKernelMessage(read func([]byte) (int, error)) error {
	buf := make([]byte, 8192) // a read gives one whole message
	n, err := read(buf)
	if errors.Is(err, unix.EPIPE) {
		return nil // some were overwritten before they were read
	}
	if err != nil {
		return err
	}
	head, text, _ := strings.Cut(string(buf[:n]), ";")
	text, _, _ = strings.Cut(text, "\n") // the rest are fields for journals
	if fields := strings.Split(head, ","); len(fields) >= 3 {
		c.say(guest.Kernel, "%s %s", fields[2], text) // microseconds since boot
	}
	return nil
}

func powerOff(c *console) {
	time.Sleep(50 * time.Millisecond) // for the last kernel messages
	c.mu.Lock()                       // and nothing after them
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func afterGrace() time.Time { return time.Now().Add(time.Second) }
