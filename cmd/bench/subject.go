// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
)

// subject is what runs beside the load.
type subject struct {
	name  string
	pkg   string   // Debian's, of a rival; empty: ours
	args  []string // FILE in them is a file of the run
	file  bool     // stdout to a file, else to /dev/null
	ready string   // stderr has it once it is ready; empty: once it has attached something to the kernel
	after []string // run when it has ended, and counted as its CPU: a reader of what it wrote
	lines bool     // stdout has a line for each transition
}

// script prints what tcpstates prints.
const script = `tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {
	printf("%s %d %d %d %d -> %d\n", comm, pid, args->sport, args->dport, args->oldstate, args->newstate); }`

// The names that the gates go by.
const (
	nameWatch      = "`watch`, text to a file"
	nameNoTimeWait = "`watch --no-timewait`, text to a file"
	nameTimeWait   = "`timewait`"
	nameTCPStates  = "tcpstates (libbpf-tools)"
	namePerf       = "perf record, then perf script"
)

func ours(program, name string, file, lines bool, args ...string) subject {
	return subject{name: name, args: append([]string{program}, args...), file: file, ready: "ready in ", lines: lines}
}

func watch(program, name string, file bool, args ...string) subject {
	return ours(program, name, file, file, append([]string{"watch"}, args...)...)
}

// subjects are all of them; program is our own.
func subjects(program string) []subject {
	return []subject{
		watch(program, nameWatch, true),
		watch(program, "`watch`, text to /dev/null", false),
		watch(program, "`watch -o json`, to a file", true, "-o", "json"),
		watch(program, "`watch -o json`, to /dev/null", false, "-o", "json"),
		watch(program, nameNoTimeWait, true, "--no-timewait"),
		watch(program, "`watch -D 1`: a filter that matches nothing", false, "-D", "1"),
		watch(program, "`watch -L 1`: the same, by the port that connect() chooses", false, "-L", "1"),
		ours(program, nameTimeWait, false, false, "timewait", "--sample", "1h"),
		ours(program, "`leaks --follow`", false, false, "leaks", "--follow", "--every", "1h"),
		{name: nameTCPStates, pkg: "libbpf-tools", args: []string{"tcpstates"}, file: true, lines: true},
		{name: "tcplife (libbpf-tools), a line for each socket", pkg: "libbpf-tools", args: []string{"tcplife"}, file: true},
		{name: "bpftrace, printf", pkg: "bpftrace", args: []string{"bpftrace", "-e", script}, file: true, lines: true},
		{
			name: namePerf, pkg: "linux-perf",
			args:  []string{"perf", "record", "-q", "-a", "-e", "sock:inet_sock_set_state", "-o", "FILE"},
			after: []string{"perf", "script", "-i", "FILE"},
		},
	}
}

// command prepares a command of the subject's, in a mount namespace with tracefs, which a host may not have mounted. The
// process is that of the program.
func (s *subject) command(args []string, dir string) *exec.Cmd {
	full := []string{"-c", `mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; exec "$@"`, "sh"}
	for _, a := range args {
		full = append(full, strings.ReplaceAll(a, "FILE", filepath.Join(dir, "data")))
	}
	cmd := exec.Command("sh", full...)
	cmd.SysProcAttr = privateMounts()
	return cmd
}
