// SPDX-License-Identifier: Apache-2.0

// Package doctor finds out what this kernel and these privileges allow, by
// trying, and says what to do about what is missing.
package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/netns"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
	"afterfin/internal/tracer"
)

// Need says what the lack of a check means.
type Need int

// Optional: less is known without it. Privilege and Feature: no tracing without it.
const (
	Optional Need = iota
	Privilege
	Feature
)

// Check is one thing looked at.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Found  string `json:"found"`  // what was seen, or the error
	Gives  string `json:"gives"`  // what afterfin has from it
	Remedy string `json:"remedy"` // the way out; empty if OK
	Need   Need   `json:"-"`
}

// Run does every check. It attaches for a moment, and leaves nothing behind.
func Run() []Check {
	checks := append([]Check{kernel()}, Quick()...)
	types := tracer.NewTypes()
	return append(checks,
		tried("ring buffer", tracer.ProbeRing(), Feature, "events without a wake-up each", "kernel 5.8 or later"),
		tried("tp_btf", tracer.ProbeState(types), Feature, "every TCP state change, with cookie and memory per socket", "kernel 5.12 or later with CONFIG_DEBUG_INFO_BTF=y"),
		tried("iterators", tracer.ProbeIterators(types), Feature, "owners of sockets older than afterfin", "kernel 5.12 or later"),
		tried("fentry", tracer.ProbeFexit(types), Optional, "who accepted a connection, for free; else rows say listen until the descriptor or the close tells",
			"watch --exact-owner sees accept() without it, at a cost per system call"),
		timeWait(tracer.ProbeTimeWait(types)),
		inetDiag(), reach(), tracefs(), pidNS())
}

// Quick does the checks that need no BPF, for a clear word before anything is
// attached.
func Quick() []Check {
	checks := []Check{userNS(), lockdown(), btf()}
	return append(checks, capabilities()...)
}

// Failed gives the first check without which nothing can be traced, nil if
// there is none.
func Failed(checks []Check) *Check {
	for i := range checks {
		if !checks[i].OK && checks[i].Need != Optional {
			return &checks[i]
		}
	}
	return nil
}

func kernel() Check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Check{Name: "kernel", Found: err.Error()}
	}
	return Check{Name: "kernel", OK: true, Gives: "what the lines below say: nothing is decided by version",
		Found: unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])}
}

func tried(name string, err error, need Need, gives, remedy string) Check {
	c := Check{Name: name, OK: err == nil, Found: "works", Gives: gives, Need: need}
	if err != nil {
		c.Found, c.Remedy = firstLine(err.Error()), remedy
	}
	if need == Feature && errors.Is(err, unix.EPERM) { // the verifier refuses with EACCES and EINVAL
		c.Need, c.Remedy = Privilege, "run as root on the host; a container runtime, seccomp or an LSM may forbid bpf() all the same"
	}
	return c
}

// firstLine: a verifier log is for us, not for the reader.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	if len(line) > 160 {
		line = line[:160] + "…"
	}
	return line
}

func btf() Check {
	const path = "/sys/kernel/btf/vmlinux"
	_, err := os.Stat(path)
	c := tried("btf", err, Feature, "the places of kernel fields, so one binary fits all kernels", "a kernel with CONFIG_DEBUG_INFO_BTF=y, and /sys mounted")
	if err == nil {
		c.Found = path
	}
	return c
}

func lockdown() Check {
	c := Check{Name: "lockdown", OK: true, Found: "none", Gives: "BPF may read kernel memory", Need: Feature}
	raw, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return c // not built in, or securityfs not mounted: the load will tell
	}
	if _, rest, ok := strings.Cut(string(raw), "["); ok {
		c.Found, _, _ = strings.Cut(rest, "]")
	}
	if c.Found == "confidentiality" {
		c.OK, c.Remedy = false, "boot with lockdown=integrity or none"
	}
	return c
}

func tracefs() Check {
	c := Check{Name: "tracefs", Gives: "nothing that afterfin needs; other tracers do", Found: "not mounted", Remedy: "mount -t tracefs tracefs /sys/kernel/tracing"}
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.TRACEFS_MAGIC {
			c.OK, c.Found, c.Remedy = true, dir, ""
			return c
		}
	}
	return c
}

// timeWait: both hook sets show the rows; see README.md for what the timers cannot tell.
func timeWait(h tracer.Hook) Check {
	c := Check{Name: "TIME_WAIT", OK: h.Program != "", Found: h.Program,
		Gives: "entry, end and cause of TIME_WAIT; with fentry how often it began anew too, for no more than that costs"}
	switch {
	case !c.OK:
		c.Found = firstLine(h.Why)
		c.Remedy = "if addresses are hidden: CAP_SYSLOG, and sysctl kernel.kptr_restrict=1; without TIME_WAIT, rows end with FIN_WAIT2→CLOSE"
	case h.Why != "":
		c.Found = firstLine(h.Program + " (" + h.Why + ")")
	}
	return c
}

func inetDiag() Check {
	var listen tcp.StateSet
	listen.Add(tcp.Listen)
	err := sockdiag.Dump(listen, func(*event.Existing) {})
	return tried("inet_diag", err, Feature, "sockets older than afterfin", "modprobe tcp_diag")
}

func reach() Check {
	c := Check{Name: "netns", Gives: "existing sockets of containers; their transitions are seen in any case"}
	spaces, unreadable, err := netns.List()
	if err != nil {
		c.Found = err.Error()
		return c
	}
	entered := 0
	for _, ns := range spaces {
		if err := netns.Do(ns, func() error { return nil }); err == nil {
			entered++
		} else if !errors.Is(err, os.ErrNotExist) {
			unreadable++
		}
	}
	c.OK = unreadable == 0
	c.Found = fmt.Sprintf("%d reachable, %d processes or namespaces not", entered, unreadable)
	if !c.OK {
		c.Remedy = "CAP_SYS_ADMIN and CAP_SYS_PTRACE in the initial user namespace"
	}
	return c
}

// pidNS: the inode of the initial namespace is fixed (PROC_PID_INIT_INO).
func pidNS() Check {
	c := Check{Name: "pid namespace", Gives: "pids as ps on the host shows them"}
	link, err := os.Readlink("/proc/self/ns/pid")
	c.OK, c.Found = link == "pid:[4026531836]", link
	if err != nil {
		c.Found = err.Error()
	}
	if !c.OK {
		c.Remedy = "run in the host's pid namespace (docker run --pid=host); here pids are the host's, and processes outside cannot be looked at"
	}
	return c
}
