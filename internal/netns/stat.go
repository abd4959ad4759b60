// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Sysctl reads a sysctl of the netns of the calling thread, such as
// net.ipv4.tcp_max_tw_buckets: numbers, as many as it has. Errors are those of os.ReadFile and
// of strconv.
func Sysctl(name string) ([]int, error) {
	text, err := SysctlText(name)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for field := range strings.FieldsSeq(text) {
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// SysctlText reads one that is no row of numbers, as it is.
func SysctlText(name string) (string, error) {
	// /proc/sys/net shows the netns of the thread that opens the file.
	raw, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	return string(raw), err
}

// TimeWaitOverflows reads the counter TCPTimeWaitOverflow of the netns of the calling thread:
// sockets that got no mini-socket, for there were tcp_max_tw_buckets, or no memory.
func TimeWaitOverflows() (uint64, error) {
	text, err := os.ReadFile("/proc/thread-self/net/netstat") // not net/: that is the main thread's
	if err != nil {
		return 0, err
	}
	n, ok := parseOverflows(text)
	if !ok {
		return 0, fmt.Errorf("no TCPTimeWaitOverflow in /proc/net/netstat")
	}
	return n, nil
}

// parseOverflows finds the counter in the two lines of /proc/net/netstat that begin
// with TcpExt: its names, then its numbers.
func parseOverflows(netstat []byte) (uint64, bool) {
	var names []string
	for line := range bytes.Lines(netstat) {
		group, rest, ok := bytes.Cut(line, []byte{':'})
		if !ok || string(group) != "TcpExt" {
			continue
		}
		if names == nil {
			for name := range bytes.FieldsSeq(rest) {
				names = append(names, string(name))
			}
			continue
		}
		i := slices.Index(names, "TCPTimeWaitOverflow")
		numbers := bytes.Fields(rest)
		if i < 0 || i >= len(numbers) {
			return 0, false
		}
		n, err := strconv.ParseUint(string(numbers[i]), 10, 64)
		return n, err == nil
	}
	return 0, false
}
