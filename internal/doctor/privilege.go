// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"

	"golang.org/x/sys/unix"
)

// capability is one that some part of afterfin asks for. CAP_SYS_ADMIN stands in
// for CAP_BPF and CAP_PERFMON, as in the kernel (bpf_capable, perfmon_capable).
type capability struct {
	bit     int
	name    string
	byAdmin bool
	need    Need
	gives   string
}

var wanted = []capability{
	{unix.CAP_BPF, "CAP_BPF", true, Privilege, "load programs and make maps"},
	{unix.CAP_PERFMON, "CAP_PERFMON", true, Privilege, "attach to tracepoints, read kernel fields"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", false, Optional, "enter other network namespaces for their existing sockets; measure how long TIME_WAIT is, in one of its own"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", false, Optional, "find the network namespaces of other users' processes"},
	{unix.CAP_SYSLOG, "CAP_SYSLOG", false, Optional, "TIME_WAIT: which function ends it, by the addresses in /proc/kallsyms"},
}

func capabilities() []Check {
	have := effective()
	var checks []Check
	for _, c := range wanted {
		check := Check{Name: c.name, Found: "effective", OK: have>>c.bit&1 != 0, Need: c.need, Gives: c.gives}
		if !check.OK && c.byAdmin && have>>unix.CAP_SYS_ADMIN&1 != 0 {
			check.OK, check.Found = true, "by CAP_SYS_ADMIN"
		}
		if !check.OK {
			check.Found = "missing"
			check.Remedy = "run as root (sudo), or setcap cap_bpf,cap_perfmon,cap_sys_admin,cap_sys_ptrace,cap_syslog+ep on the binary"
		}
		checks = append(checks, check)
	}
	return checks
}

// effective gives the capability bits of this thread, none if they cannot be read.
func effective() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32
}

// userNS: capabilities held in another user namespace count for nothing in BPF.
func userNS() Check {
	c := Check{Name: "user namespace", OK: true, Found: "initial", Gives: "capabilities that count", Need: Privilege}
	link, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return c // not built in
	}
	if link != "user:[4026531837]" { // PROC_USER_INIT_INO, fixed
		c.OK, c.Found = false, "not the initial one: root here is not root on the host"
		c.Remedy = "run on the host, or in a container without user namespace (docker run --userns=host --privileged)"
	}
	return c
}
