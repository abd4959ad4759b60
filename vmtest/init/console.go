// SPDX-License-Identifier: Apache-2.0

package main

import (
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
	mu   sync.Mutex
	kmsg *os.File
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
	var err error
	if c.kmsg, err = os.Open("/dev/kmsg"); err != nil {
		return err
	}
	go c.passKernelMessages()
	return nil
}

func (c *console) passKernelMessages() {
	buf := make([]byte, 8192) // a read gives one whole message
	for {
		n, err := c.kmsg.Read(buf)
		if err != nil {
			if strings.Contains(err.Error(), unix.EPIPE.Error()) {
				continue // some were overwritten before they were read
			}
			return
		}
		head, text, _ := strings.Cut(string(buf[:n]), ";")
		text, _, _ = strings.Cut(text, "\n") // the rest are fields for journals
		fields := strings.Split(head, ",")
		if len(fields) < 3 {
			continue
		}
		c.say(guest.Kernel, "%s %s", fields[2], text) // microseconds since boot
	}
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
