// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

// asMain makes the test binary run as afterfin itself: for tests that need a
// process of its own with other privileges.
const asMain = "AFTERFIN_TEST_MAIN"

// hideDir names a directory to hide from such a process, in a mount namespace of its own.
const hideDir = "AFTERFIN_TEST_HIDE"

func TestMain(m *testing.M) {
	lab.Main()
	if len(os.Args) > 1 && os.Args[1] == asCommand {
		os.Exit(perform(os.Args[2:]))
	}
	if os.Getenv(asMain) != "" {
		if dir := os.Getenv(hideDir); dir != "" {
			if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
				panic(err)
			}
		}
		main()
	}
	testscript.Main(withSpecimens{m}, map[string]func(){"afterfin": main})
}

// TestScripts run the real binary; see testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
		UpdateScripts: os.Getenv("UPDATE") != "",
	})
}

// exits CODE COMMAND ARGS: run, and want exactly that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// asNobody runs afterfin as another user with just these capabilities.
func asNobody(t *testing.T, caps []uintptr, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return runAs(t, &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
		AmbientCaps: caps,
	}, "", args...)
}

// runAs runs afterfin with other attributes, one directory hidden if it has a name.
func runAs(t *testing.T, attr *syscall.SysProcAttr, hide string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asMain+"=1", hideDir+"="+hide)
	cmd.SysProcAttr = attr
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// Without a privilege: its name, the way out, exit 4, and the same from doctor
// and watch.
func TestPrivileges(t *testing.T) {
	for name, c := range map[string]struct {
		caps    []uintptr
		missing string
	}{
		"none":            {nil, "CAP_BPF"},
		"without PERFMON": {[]uintptr{unix.CAP_BPF}, "CAP_PERFMON"},
		"without BPF":     {[]uintptr{unix.CAP_PERFMON}, "CAP_BPF"},
	} {
		t.Run(name, func(t *testing.T) {
			_, fromDoctor, code := asNobody(t, c.caps, "doctor")
			if code != exitPrivilege {
				t.Errorf("doctor exits %d, want %d", code, exitPrivilege)
			}
			stdout, stderr, code := asNobody(t, c.caps, "watch", "--duration", "1s")
			if code != exitPrivilege || stdout != "" {
				t.Errorf("watch exits %d with stdout %q", code, stdout)
			}
			if want := "error: " + c.missing + ": missing\nhint: run as root (sudo), or setcap "; !strings.HasPrefix(stderr, want) {
				t.Errorf("watch says %q, want %q", stderr, want)
			}
			if stderr != fromDoctor {
				t.Errorf("doctor says %q, watch %q", fromDoctor, stderr)
			}
		})
	}
}

// CAP_BPF and CAP_PERFMON are enough to watch; what is missing then is said.
func TestFewPrivileges(t *testing.T) {
	_, stderr, code := asNobody(t, []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}, "watch", "--duration", "100ms")
	if code != exitOK || !strings.Contains(stderr, "\nready in ") && !strings.HasPrefix(stderr, "ready in ") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if !strings.Contains(stderr, "could not be entered (that takes CAP_SYS_ADMIN, CAP_SYS_PTRACE") {
		t.Errorf("what it cannot read is not said: %s", stderr)
	}
}

// A netns that may not be entered is bad input, like one that is not there.
func TestUnreadableNetNS(t *testing.T) {
	stdout, stderr, code := asNobody(t, []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}, "watch", "--netns", "/proc/1/ns/net")
	if code != exitUsage || stdout != "" || !strings.Contains(stderr, "permission denied") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// To enter another netns takes one capability more: said before anything is attached.
func TestNetNSWithoutSysAdmin(t *testing.T) {
	caps := []uintptr{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}
	_, stderr, code := asNobody(t, caps, "watch", "--netns", newNetNS(t).Path())
	if code != exitUsage || !strings.Contains(stderr, "CAP_SYS_ADMIN") || strings.Contains(stderr, "ready") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

// Root of another user namespace is not root here, whatever its capabilities say.
func TestUserNamespace(t *testing.T) {
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 4294967295}} // looks like the initial one
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: root, GidMappings: root}
	for _, command := range []string{"watch", "doctor"} {
		_, stderr, code := runAs(t, attr, "", command)
		if code != exitPrivilege || !strings.HasPrefix(stderr, "error: user namespace: not the initial one") {
			t.Errorf("%s exits %d: %s", command, code, stderr)
		}
	}
}

// A kernel without BTF: its name, the way out, exit 5, from both commands.
func TestMissingFeature(t *testing.T) {
	for _, command := range []string{"watch", "doctor"} {
		attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		_, stderr, code := runAs(t, attr, "/sys/kernel/btf", command)
		if code != exitFeature || !strings.HasPrefix(stderr, "error: btf: ") || !strings.Contains(stderr, "\nhint: a kernel with CONFIG_DEBUG_INFO_BTF=y") {
			t.Errorf("%s exits %d: %s", command, code, stderr)
		}
	}
}
