// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

// privileges are all that serve asks for, as the unit and the DaemonSet have them.
var privileges = []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYSLOG, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}

// TestServePrivileges: without each of them serve does not start and names it, or goes on without what
// README's table says, and tells so. What is not needed after the start is given up.
func TestServePrivileges(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	client, srv := s.actor("capleaker"), s.actor("server")
	_, c, a := s.pair(client, srv)
	s.closeWait(client, srv, c, a)
	const leaks = "afterfin_leaked_sockets{verdict=eof_unread,workload=capleaker}"
	for name, c := range map[string]struct {
		without uintptr
		refuses string // what it says when it does not start
		notice  string
		leak    float64 // seen, with its owner
		hidden  string  // a count that is not 0
	}{
		"nothing":         {^uintptr(0), "", "", 1, ""},
		"BPF, SYS_ADMIN":  {unix.CAP_BPF, "CAP_BPF", "", 0, ""},
		"PERFMON":         {unix.CAP_PERFMON, "CAP_PERFMON", "", 0, ""},
		"SYSLOG":          {unix.CAP_SYSLOG, "CAP_SYSLOG", "", 0, ""},
		"NET_ADMIN":       {unix.CAP_NET_ADMIN, "", "how long it is on this kernel could not be measured", 1, ""},
		"SYS_ADMIN":       {unix.CAP_SYS_ADMIN, "", "could not be entered (that takes CAP_SYS_ADMIN", 0, "afterfin_unreachable_netns"},
		"SYS_PTRACE":      {unix.CAP_SYS_PTRACE, "", "could not be entered (that takes CAP_SYS_ADMIN, CAP_SYS_PTRACE", 0, "afterfin_unreachable_netns"},
		"DAC_READ_SEARCH": {unix.CAP_DAC_READ_SEARCH, "", "", 0, "afterfin_unreadable_processes"},
	} {
		t.Run(name, func(t *testing.T) {
			caps := slices.DeleteFunc(slices.Clone(privileges), func(p uintptr) bool {
				// One of the two stands in for the other, as in the kernel.
				return p == c.without || p == unix.CAP_SYS_ADMIN && (c.without == unix.CAP_BPF || c.without == unix.CAP_PERFMON)
			})
			v := serveWith(t, caps)
			if c.refuses != "" {
				if v.at != "" || v.exit() != exitPrivilege || !strings.Contains(v.stderr.String(), c.refuses) {
					t.Errorf("it goes on, or exits otherwise: %s", v.stderr)
				}
				return
			}
			if v.at == "" {
				t.Fatalf("exit %d: %s", v.exit(), v.stderr)
			}
			if !strings.Contains(v.stderr.String(), c.notice) {
				t.Errorf("no %q: %s", c.notice, v.stderr)
			}
			if c.without != unix.CAP_NET_ADMIN && c.without != unix.CAP_SYS_ADMIN && strings.Contains(v.stderr.String(), "could not be measured") {
				t.Errorf("measured all the same: %s", v.stderr)
			}
			m := v.metrics()
			if m[leaks] != c.leak || c.hidden != "" && m[c.hidden] == 0 {
				t.Errorf("the leak of another user: %v, want %v; %s %v: %v", m[leaks], c.leak, c.hidden, m[c.hidden], with(m, "afterfin_leaked_sockets"))
			}
			v.holds(slices.DeleteFunc(caps, func(p uintptr) bool {
				return p == unix.CAP_PERFMON || p == unix.CAP_SYSLOG || p == unix.CAP_NET_ADMIN
			}))
		})
	}
}

// servedProcess is serve as a process of its own.
type servedProcess struct {
	served
	cmd *exec.Cmd
}

// serveWith runs it as nobody, with some capabilities; at is empty if it has ended.
func serveWith(t *testing.T, caps []uintptr) *servedProcess {
	t.Helper()
	p := &servedProcess{served: served{T: t, stderr: &notes{ready: make(chan struct{})}}}
	p.cmd = exec.Command("/proc/self/exe", "serve", "--web.listen-address", "127.0.0.1:0", "--recorder", "", "--older-than", "0s")
	p.cmd.Env = append(os.Environ(), asMain+"=1")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: caps}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(p.stderr, lines.Text())
		if strings.HasPrefix(lines.Text(), "ready ") {
			go func() {
				for lines.Scan() {
				}
			}()
			p.at = "http://" + listening.FindStringSubmatch(p.stderr.String())[1]
			break
		}
	}
	return p
}

func (p *servedProcess) exit() int {
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// holds: these capabilities and no others, in every thread.
func (p *servedProcess) holds(caps []uintptr) {
	p.Helper()
	var want uint64
	for _, c := range caps {
		want |= 1 << c
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
	if err != nil {
		p.Fatal(err)
	}
	for _, task := range tasks {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", p.cmd.Process.Pid, task.Name()))
		if err != nil {
			continue // a thread that has ended
		}
		for line := range strings.Lines(string(raw)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch name {
			case "CapPrm", "CapEff":
				if got, err := strconv.ParseUint(value, 16, 64); err != nil || got != want {
					p.Errorf("thread %s: %s %s, want %016x", task.Name(), name, value, want)
				}
			case "NoNewPrivs":
				if value != "1" {
					p.Errorf("thread %s: NoNewPrivs %s", task.Name(), value)
				}
			}
		}
	}
}
